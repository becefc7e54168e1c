"""Text that is read, tokenised, packed and shuffled while training, by a thread that keeps a few batches ahead.

Documents are dealt to the processes in turn. Each shuffles its sequences in blocks: it fills a block, gives it out in random
order, fills the next. So where it is takes few words to say (where the block began, how much of it is given out), and a
run that resumes there fills that block again and goes on with the very next sequence.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import count
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, NamedTuple, TextIO, TypeVar

import numpy as np
from datasets import IterableDataset, load_dataset
from datasets.distributed import split_dataset_by_node
from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError

from ..config import TrainingConfig
from ..errors import in_one_line
from .corpus import as_text, lines, separator
from .noising import ORDER
from .tokens import encode

T = TypeVar("T")
PIECE_CHARS = 1 << 16
TOKENIZER_BATCH = 64
BATCHES_AHEAD = 8


class Position(NamedTuple):
    """Where a block of sequences begins, in types that JSON keeps, and how many of its sequences have been given out.

    `source` is the state of `datasets` within the epoch (None at its beginning), `rest` the tokens of the text before that
    did not fill a sequence (packing), `last` the document and the piece of it that was read last.
    """

    epoch: int
    source: dict[str, Any] | None
    rest: list[int]
    last: list[int] | None
    block: int
    taken: int


START = Position(0, None, [], None, 0, 0)


def open_documents(config: TrainingConfig) -> IterableDataset:
    """Rows of `text`, and for files the `document` that it is of and which `piece` of that.

    Raises:
        ParameterError: they cannot be read, or hold no text.
    """
    if config.dataset_name is None:
        files = [(index, str(path)) for index, path in enumerate(config.train_file)]
        return IterableDataset.from_generator(read_pieces, gen_kwargs={"files": files, "packing": config.packing})
    name, column = config.dataset_name, config.text_column
    try:
        rows = load_dataset(name, config.dataset_config_name, split="train", streaming=True)
        first = next(iter(rows.take(1)))
    except Exception as error:  # `datasets` raises many kinds; each means that this name cannot be read here
        rule = f"have a split train that can be streamed ({in_one_line(error)})"
        raise ParameterError("dataset_name", rule, name) from error
    if column not in first:
        raise ParameterError("text_column", f"be one of the columns {', '.join(first)}", column)
    as_text(first[column], column)
    rows = rows.select_columns([column])
    return rows if column == "text" else rows.rename_column(column, "text")


def read_pieces(files: Sequence[tuple[int, str]], packing: bool) -> Iterator[dict[str, Any]]:
    """Each line that is not blank, or with packing each file in pieces of whole lines. Raises `ParameterError`."""
    for document, path in files:
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                for piece, text in enumerate(_pieces(file) if packing else lines(file)):
                    yield {"text": text, "document": document, "piece": piece}
        except OSError as error:
            raise ParameterError("train_file", f"be a readable file ({error.strerror})", path) from error
        except UnicodeDecodeError as error:
            raise ParameterError("train_file", f"be UTF-8 text ({error.reason})", path) from error


def _pieces(file: TextIO) -> Iterator[str]:
    while lines := file.readlines(PIECE_CHARS):
        yield "".join(lines)


class SequenceStream:
    """Endless token sequences of one process's share of the documents, each with the position after it."""

    def __init__(
        self,
        documents: IterableDataset,
        tokenizer: PreTrainedTokenizerBase,
        config: TrainingConfig,
        process: int,
        num_processes: int,
        position: Position = START,
    ) -> None:
        self.documents = split_dataset_by_node(documents, rank=process, world_size=num_processes)
        self.tokenizer, self.config, self.process = tokenizer, config, process
        self.special = np.array(sorted(set(tokenizer.all_special_ids)))
        self.gap = np.array([separator(tokenizer)] if config.packing else [], dtype=np.int32)
        self.position = position

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
        """Where each block begins, and its sequences in the order of the text."""
        epoch, source, rest, last, first_block, _ = self.position
        self.epoch, self.source, self.last = epoch, source, last
        self.rest = np.array(rest, dtype=np.int32)
        batches = self._batches()
        for block in count(first_block):
            start = Position(self.epoch, self.source, self.rest.tolist(), self.last, block, 0)
            sequences: list[np.ndarray] = []
            while len(sequences) < self.config.shuffle_buffer_size:
                sequences += next(batches)
            yield start, sequences

    def _batches(self) -> Iterator[list[np.ndarray]]:
        """The sequences of some documents at a time; `epoch`, `source`, `rest` and `last` are then where these end."""
        while True:
            self.documents.set_epoch(self.epoch)
            empty = self.source is None
            if self.source is not None:
                self.documents.load_state_dict(self.source)
            for rows in self.documents.iter(batch_size=TOKENIZER_BATCH):
                sequences = self._sequences(rows)
                self.source = self.documents.state_dict()
                empty &= not sequences and not len(self.rest)
                yield sequences
            if empty:
                raise ParameterError("train_file or dataset_name", "hold text for every process", None)
            self.epoch, self.source = self.epoch + 1, None

    def _sequences(self, rows: dict[str, list[Any]]) -> list[np.ndarray]:
        """The rows' text as whole sequences; with packing, what is left over goes to `rest`."""
        texts = [as_text(text, self.config.text_column) for text in rows["text"]]
        length = self.config.max_length
        if not self.config.packing:
            options = {"truncation": True, "max_length": length}
            return [ids for ids in encode(self.tokenizer, texts, options) if self._counts(ids)]
        parts = [self.rest]
        for row, ids in enumerate(encode(self.tokenizer, texts, {"add_special_tokens": False})):
            place = [rows["document"][row], rows["piece"][row]] if "piece" in rows else [0, 0]
            goes_on = "piece" in rows and self.last == [place[0], place[1] - 1]
            parts += [ids] if goes_on or self.last is None else [self.gap, ids]
            self.last = place
        stream = np.concatenate(parts)
        whole = len(stream) // length * length
        self.rest = stream[whole:]
        return [ids for ids in stream[:whole].reshape(-1, length) if self._counts(ids)]

    def _counts(self, ids: np.ndarray) -> bool:
        return not np.isin(ids, self.special).all()


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
