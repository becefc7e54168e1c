"""Text that is read, tokenised, packed and shuffled while training, by a thread that keeps a few batches ahead.

Documents are dealt to the processes in turn. Each shuffles its sequences in blocks: it fills a block, gives it out in random
order, fills the next; a block ends with its epoch at the latest. So where it is takes few words to say (where the block
began, how much of it is given out), and a run that resumes there fills that block again and goes on with the very next
sequence.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, NamedTuple, TypeVar

import numpy as np
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError
from token_diffusion.facts import Facts

from ..config import TrainingConfig
from .corpus import open_dataset, train_files
from .cutting import cut, cutter_of
from .noising import ORDER
from .reading.documents import is_blank, read_pieces
from .reading.files import as_text
from .sequences import facts_of, frame_within, separator, special, truncated
from .tokens import Unwritten, encode

logger = logging.getLogger(__name__)

T = TypeVar("T")
ROWS = 64
"""Pieces of text that are tokenised at a time."""
BATCHES_AHEAD = 8


class Position(NamedTuple):
    """Where a block of sequences begins, in types that JSON keeps, and how many of its sequences have been given out.

    `source` is the state of `datasets` within the epoch (None at its beginning) before the rows of the block's first sequence,
    `rest` the tokens of the text before them that did not fill a sequence (packing), `last` the place of the piece that was
    read last, and `skipped` how many of the rows' sequences are in blocks before.
    """

    epoch: int
    source: dict[str, Any] | None
    rest: list[int]
    last: list[int] | None
    skipped: int
    block: int
    taken: int


START = Position(0, None, [], None, 0, 0, 0)


def open_documents(config: TrainingConfig, tokenizer: PreTrainedTokenizerBase) -> IterableDataset:
    """Rows of `text`, and of files the `place` of each: file, document, piece of it.

    Raises:
        ParameterError: they cannot be read, or hold no text.
    """
    flag, files = train_files(config)
    if files:
        # `datasets` takes a list for shards, which it may deal to the processes whole.
        numbered = [(index, str(path)) for index, path in enumerate(files)]
        options = {"flag": flag, "packing": config.packing, "column": config.text_column, "tokenizer": tokenizer}
        return IterableDataset.from_generator(read_rows, gen_kwargs={"files": numbered, **options})
    rows, column = open_dataset(config)["train"], config.text_column
    as_text(next(iter(rows.take(1)))[column], column)
    rows = rows.select_columns([column])
    return rows if column == "text" else rows.rename_column(column, "text")


def read_rows(
    files: Sequence[tuple[int, str]], flag: str, packing: bool, column: str, tokenizer: PreTrainedTokenizerBase
) -> Iterator[dict[str, Any]]:
    """The documents of files; with packing in pieces, cut as the tokenizer allows. Raises `ParameterError`."""
    numbered = [(index, Path(path)) for index, path in files]
    pieces = read_pieces(flag, numbered, packing=packing, text_column=column)
    for text, document, number in cut(pieces, tokenizer) if packing else pieces:
        yield {"text": text, "place": [*document, number]}


class SequenceStream:
    """Endless token sequences of one process's share of the documents, each with the position after it.

    progress: whether a bar shows how the first block is filled.
    """

    def __init__(
        self,
        documents: IterableDataset,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainingConfig,
        process: int,
        num_processes: int,
        position: Position = START,
        progress: bool = False,
        facts: Facts | None = None,
    ) -> None:
        self.documents = split_dataset_by_node(documents, rank=process, world_size=num_processes)
        self.maker = SequenceMaker(tokenizer, config, facts or facts_of(tokenizer, config.packing))
        self.config, self.process, self.position, self.progress = config, process, position, progress

    def __iter__(self) -> Iterator[tuple[np.ndarray, Position]]:
        taken = self.position.taken
        # While a block is given out, the next one is filled.
        with closing(read_ahead(self._blocks(), 1)) as blocks:
            for start, sequences in blocks:
                key = [self.config.seed, ORDER, self.process, start.block]
                order = np.random.default_rng(key).permutation(len(sequences))
                for i in range(taken, len(sequences)):
                    yield sequences[order[i]], start._replace(taken=i + 1)
                taken = 0

    def _blocks(self) -> Iterator[tuple[Position, list[np.ndarray]]]:
        """Where each block begins, and its sequences in the order of the text; the last of an epoch may have fewer."""
        block, skipped, size = self.position.block, self.position.skipped, self.config.shuffle_buffer_size
        start, sequences = self.position, list[np.ndarray]()
        off = None if self.progress else True
        with tqdm(total=size, desc="first block", unit="sequence", delay=1, disable=off) as bar:
            for place, found in self._batches():
                if place.source is None and sequences:  # another epoch has begun
                    yield start, sequences
                    sequences, block = [], block + 1
                while skipped < len(found):
                    if not sequences:
                        start = place._replace(skipped=skipped, block=block)
                    part = found[skipped : skipped + size - len(sequences)]
                    sequences, skipped = sequences + part, skipped + len(part)
                    bar.update(len(part))
                    if len(sequences) == size:
                        bar.close()
                        yield start, sequences
                        sequences, block = [], block + 1
                skipped = 0

    def _batches(self) -> Iterator[tuple[Position, list[np.ndarray]]]:
        """The sequences of some rows at a time, and the position before these."""
        maker = self.maker
        epoch, source, rest, maker.last, *_ = self.position
        maker.rest = np.array(rest, dtype=np.int32)
        while True:
            self.documents.set_epoch(epoch)
            whole, maker.num_counted = source is None, 0
            if source is not None:
                self.documents.load_state_dict(source)
            for rows in self.documents.iter(batch_size=ROWS):
                place = Position(epoch, source, maker.rest.tolist(), maker.last, 0, 0, 0)
                yield place, maker.sequences(rows)
                source = self.documents.state_dict()
            if whole and not maker.num_counted:
                raise ParameterError("train_file or dataset_name", "hold text for every process", None)
            epoch, source = epoch + 1, None


class SequenceMaker:
    """Rows of text to sequences. With packing, `rest` are the tokens that did not fill one, `last` the place read last."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: TrainingConfig, facts: Facts) -> None:
        self.tokenizer, self.config, self.special = tokenizer, config, special(tokenizer, facts.learnt)
        self.frame = frame_within(tokenizer, config.max_length, facts.frame)
        self.separator = [separator(tokenizer)] if config.packing else []
        self.cutter, self.unwritten = cutter_of(tokenizer), Unwritten(tokenizer)
        self.flag = train_files(config)[0]
        self.rest = np.empty(0, np.int32)
        self.last: list[int] | None = None
        self.num_counted = 0
        self.told_unwritten = self.told_too_long = False

    def sequences(self, rows: dict[str, list[Any]]) -> list[np.ndarray]:
        """The rows' whole sequences that have a token that counts."""
        texts = [as_text(text, self.config.text_column) for text in rows["text"]]
        places = rows.get("place", [None] * len(texts))
        documents = [
            (text, place) for text, place in zip(texts, places, strict=True) if place is not None or not is_blank(text)
        ]
        self._tell(texts)
        found = self._ids([text for text, _ in documents])
        made = self._packed(found, [place for _, place in documents]) if self.config.packing else self._framed(found)
        first, last = len(self.frame.prefix), len(self.frame.suffix)
        return [ids for ids in made if not self._is_special(ids[first : len(ids) - last])]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Of each text, which is cut up on the way if it is long."""
        pieces = [list(self.cutter.pieces([text])) for text in texts]
        ids = iter(encode(self.tokenizer, [piece for each in pieces for piece in each]))
        found = [[id for _ in each for id in next(ids)] for each in pieces]
        self.num_counted += sum(not self._is_special(ids) for ids in found)
        return found

    def _framed(self, found: Sequence[list[int]]) -> Iterator[np.ndarray]:
        room = self.config.max_length - len(self.frame)
        for ids in found:
            (start,), (end,) = truncated(self.tokenizer, np.array([0]), np.array([len(ids)]), room)
            if end - start < len(ids) and not self.told_too_long:
                logger.warning(
                    "%s: documents are cut off at --max_length %d; --packing would keep what is lost",
                    self.flag,
                    self.config.max_length,
                )
                self.told_too_long = True
            yield np.array(self.frame.around(ids[start:end]), dtype=np.int32)

    def _packed(self, found: Sequence[list[int]], places: Sequence[list[int] | None]) -> np.ndarray:
        """Whole sequences [n, max_length], framed pieces of the stream; a separator is where a document begins."""
        parts = [self.rest]
        for ids, place in zip(found, places, strict=True):
            file, document, number = place or (0, 0, 0)
            goes_on = number > 0 and self.last == [file, document, number - 1]
            if ids or goes_on:
                gap = self.separator if self.last is not None and not goes_on else ()
                parts.append(np.array([*gap, *ids], dtype=np.int32))
                self.last = [file, document, number]
        stream, length = np.concatenate(parts), self.config.max_length - len(self.frame)
        whole = len(stream) // length * length
        self.rest = stream[whole:]
        pieces = stream[:whole].reshape(-1, length)
        around = [np.tile(np.array(ids, np.int32), (len(pieces), 1)) for ids in (self.frame.prefix, self.frame.suffix)]
        return np.concatenate([around[0], pieces, around[1]], axis=1)

    def _is_special(self, ids: Sequence[int] | np.ndarray) -> bool:
        return bool(np.isin(ids, self.special).all())

    def _tell(self, texts: Sequence[str]) -> None:
        """Says once that text is lost, when first it is."""
        if not self.told_unwritten and any(map(self.unwritten.spelled_in, texts)):
            self.unwritten.tell(self.flag, "documents spell control tokens")
            self.told_unwritten = True


def read_ahead(items: Iterator[T], size: int = BATCHES_AHEAD) -> Generator[T, None, None]:
    """The same items, made by a thread up to `size` ahead; it ends with this iterator. Raises what `items` raises."""
    queue: Queue[T | BaseException] = Queue(size)
    done = Event()

    def put(item: T | BaseException) -> None:
        while not done.is_set():
            try:
                queue.put(item, timeout=0.1)
                return
            except Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item)
                if done.is_set():
                    break
            put(StopIteration())
        except BaseException as error:  # it is raised where the item is wanted
            put(error)
        finally:
            if isinstance(items, Generator):
                items.close()  # here, in the thread that ran it

    thread = Thread(target=work, name="read ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), BaseException):
            yield item
        if not isinstance(item, StopIteration):
            raise item
    finally:
        done.set()
        thread.join()
