"""Text that is read, tokenised, packed and shuffled while training, by a thread that keeps a few batches ahead.

Documents are dealt to the processes in turn. Each shuffles its sequences in blocks: it fills a block, gives it out in random
order, fills the next; a block ends with its epoch at the latest. So where it is takes few words to say (where the block
began, how much of it is given out), and a run that resumes there fills that block again and goes on with the very next
sequence.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
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
from .cutting import cut
from .noising import ORDER
from .reading.documents import read_pieces
from .reading.files import EMPTY, as_text, check_file
from .reading.labels import Labels
from .sequences import Example, SequenceMaker, facts_of

T = TypeVar("T")
STREAM_LAYOUT = 3
"""Changed whenever the same text comes in other sequences or another order: no run can go on with those."""
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


def open_documents(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, labels: Labels | None = None
) -> IterableDataset:
    """Rows of `text`, with labels of `label`, and of files the `place` of each: file, document, piece of it.

    Raises:
        ParameterError: they cannot be read, or hold no text.
    """
    flag, files = train_files(config)
    if files:
        # `datasets` takes a list for shards, which it may deal to the processes whole.
        numbered = [(index, str(path)) for index, path in enumerate(files)]
        options = {"flag": flag, "packing": config.packing, "column": config.text_column, "tokenizer": tokenizer}
        options |= {"label_column": config.label_column, "labels": labels}
        return IterableDataset.from_generator(read_rows, gen_kwargs={"files": numbered, **options})
    rows, column = open_dataset(config)["train"], config.text_column
    as_text(next(iter(rows.take(1)))[column], column)
    if config.label_column is not None:
        rows = rows.select_columns([column, config.label_column])
        # By way of names that neither has: one may have the other's new name.
        rows = rows.rename_columns({column: f"{column} (text)", config.label_column: f"{config.label_column} (label)"})
        return rows.rename_columns({f"{column} (text)": "text", f"{config.label_column} (label)": "label"})
    rows = rows.select_columns([column])
    return rows if column == "text" else rows.rename_column(column, "text")


def source_fingerprint(config: TrainingConfig) -> str:
    """Names and sizes of what is streamed, wherever it lies. Raises `ParameterError` for a file that is not there, or empty."""
    flag, files = train_files(config)
    folder = Path(str(config.dataset_name))
    if files:
        name, source = None, [(path.name, size_of(flag, path)) for path in files]
    elif folder.is_dir():
        inside = sorted(path for path in folder.rglob("*") if path.is_file())
        name, source = folder.name, [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in inside]
    else:
        name, source = config.dataset_name, []
    facts = [STREAM_LAYOUT, name, config.dataset_config_name, source]
    return blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def size_of(flag: str, path: Path) -> int:
    """Of a file, in bytes. Raises `ParameterError` if it is none, or empty."""
    check_file(flag, path)
    size = path.stat().st_size
    if not size:
        raise ParameterError(flag, EMPTY, str(path))
    return size


def read_rows(
    files: Sequence[tuple[int, str]],
    flag: str,
    packing: bool,
    column: str,
    tokenizer: PreTrainedTokenizerBase,
    label_column: str | None = None,
    labels: Labels | None = None,
) -> Iterator[dict[str, Any]]:
    """The documents of files; with packing in pieces, cut as the tokenizer allows. Raises `ParameterError`."""
    numbered = [(index, Path(path)) for index, path in files]
    pieces = read_pieces(flag, numbered, packing=packing, text_column=column, label_column=label_column)
    for text, document, number, label in cut(pieces, tokenizer) if packing else pieces:
        row = {"text": text, "place": [*document, number]}
        yield row if label is None or labels is None else {**row, "label": labels.id_of(label)}


class SequenceStream:
    """Endless token sequences of one process's share of the documents, each with the position after it.

    progress: whether a bar shows how the first block is filled. labels: what the network is told for those of the documents.
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
        labels: Labels | None = None,
    ) -> None:
        self.documents = split_dataset_by_node(documents, rank=process, world_size=num_processes)
        self.maker = SequenceMaker(tokenizer, config, facts or facts_of(tokenizer, config.packing), labels)
        self.config, self.process, self.position, self.progress = config, process, position, progress

    def __iter__(self) -> Generator[tuple[Example, Position], None, None]:
        taken = self.position.taken
        # While a block is given out, the next one is filled.
        with closing(read_ahead(self._blocks(), 1)) as blocks:
            for start, sequences in blocks:
                key = [self.config.seed, ORDER, self.process, start.block]
                order = np.random.default_rng(key).permutation(len(sequences))
                for i in range(taken, len(sequences)):
                    yield sequences[order[i]], start._replace(taken=i + 1)
                taken = 0

    def _blocks(self) -> Iterator[tuple[Position, list[Example]]]:
        """Where each block begins, and its sequences in the order of the text; the last of an epoch may have fewer."""
        block, skipped, size = self.position.block, self.position.skipped, self.config.shuffle_buffer_size
        start, sequences = self.position, list[Example]()
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

    def _batches(self) -> Iterator[tuple[Position, list[Example]]]:
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
