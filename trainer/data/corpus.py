"""Text in, token sequences out: files or data sets, held-out text, packing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError

from ..config import TrainingConfig
from ..errors import in_one_line
from .tokens import TokenTable, token_table


@dataclass(frozen=True)
class Corpus:
    """Documents to train on and to validate on, and where they came from (names, no paths)."""

    train: Sequence[str]
    validation: Sequence[str]
    train_source: str
    validation_source: str


@dataclass(frozen=True)
class Sequences:
    """Tokenised examples: `ids` holds int32 arrays of at most max_length; `num_chars` is None unless packed."""

    ids: TokenTable
    num_chars: int | None

    @property
    def fingerprint(self) -> str:
        """The same for the same tokens in the same sequences, and for no others."""
        digest = blake2b(self.ids.tokens.tobytes(), digest_size=16)
        digest.update(self.ids.ends.tobytes())
        return digest.hexdigest()


def read_files(flag: str, paths: Sequence[Path]) -> list[str]:
    """The files' text as it is, newlines included. Raises `ParameterError` for what is missing, empty or not UTF-8."""
    texts = []
    for path in paths:
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise ParameterError(flag, f"be a readable file ({error.strerror})", str(path)) from error
        except UnicodeDecodeError as error:
            raise ParameterError(flag, f"be UTF-8 text (byte {error.start} is not)", str(path)) from error
        if not text.strip():
            raise ParameterError(flag, "hold text, and not be empty", str(path))
        texts.append(text)
    return texts


def load_corpus(config: TrainingConfig) -> Corpus:
    """The documents that the flags name. Raises `ParameterError` for whatever cannot be read."""
    if config.streaming:
        return _validation_alone(config)
    if config.dataset_name is not None:
        return _load_dataset(config)
    train: Sequence[str] = read_documents("train_file", config.train_file, packing=config.packing)
    source = ", ".join(path.name for path in config.train_file)
    if config.validation_file:
        return _with_validation_files(config, train, source)
    percent = config.validation_split_percentage
    split = _split_characters if config.packing else _split_documents
    train, validation = split(train, percent)
    return _named_split(train, validation, source, percent)


def _validation_alone(config: TrainingConfig) -> Corpus:
    """What there is to read before a streamed run: the validation text."""
    if config.dataset_name is None:
        source = ", ".join(path.name for path in config.train_file)
    else:
        name, part = config.dataset_name, config.dataset_config_name
        source = f"{name if part is None else f'{name} ({part})'}, split train"
    if config.validation_file:
        return _with_validation_files(config, (), source)
    if config.dataset_name is None:
        return Corpus((), (), source, "")
    from datasets import load_dataset

    name, column = config.dataset_name, config.text_column
    try:
        rows = load_dataset(name, config.dataset_config_name, split="validation", streaming=True)
    except ValueError:  # there is no such split, or configuration, of which the training text will tell
        return Corpus((), (), source, "")
    except Exception as error:  # as below
        raise ParameterError(
            "dataset_name", f"be a data set that can be streamed ({in_one_line(error)})", name
        ) from error
    texts = _not_blank((row.get(column) for row in rows), column)
    return Corpus((), texts, source, source.removesuffix("train") + "validation")


def read_documents(flag: str, paths: Sequence[Path], *, packing: bool) -> list[str]:
    """The files' documents: with `packing` each file, else each line that is not blank. Raises as `read_files` does."""
    texts = read_files(flag, paths)
    return texts if packing else [line for text in texts for line in lines(StringIO(text, newline=""))]


def lines(file: TextIO) -> Iterator[str]:
    """The lines that are not blank, without their ends. `file` must have been opened with newline="".

    Only \\n, \\r and \\r\\n end a line, as in a file that is streamed: `str.splitlines` also cuts at form feeds, U+2028, ….
    """
    return (line.rstrip("\r\n") for line in file if line.strip())


def _with_validation_files(config: TrainingConfig, train: Sequence[str], source: str) -> Corpus:
    validation = read_documents("validation_file", config.validation_file, packing=config.packing)
    return Corpus(train, validation, source, ", ".join(path.name for path in config.validation_file))


def _named_split(train: Sequence[str], validation: Sequence[str], source: str, percent: float) -> Corpus:
    if not percent:
        return Corpus(train, (), source, "")
    if not train or not validation:
        raise ParameterError("validation_split_percentage", "leave text on both sides of the split", percent)
    return Corpus(train, validation, f"{source} (first {100 - percent:g} %)", f"{source} (last {percent:g} %)")


def _split_documents(documents: Sequence[str], percent: float) -> tuple[Sequence[str], Sequence[str]]:
    kept = len(documents) - round(len(documents) * percent / 100)
    return documents[:kept], documents[kept:]


def _split_characters(documents: Sequence[str], percent: float) -> tuple[Sequence[str], Sequence[str]]:
    """Cuts at a character, inside a document if need be."""
    total = sum(map(len, documents))
    kept = total - round(total * percent / 100)
    train, validation = [], []
    for document in documents:
        train.append(document[:kept])
        validation.append(document[max(kept, 0) :] if kept < len(document) else "")
        kept = max(kept - len(document), 0)
    return [text for text in train if text], [text for text in validation if text]


def _load_dataset(config: TrainingConfig) -> Corpus:
    """Train and validation splits of a data set; without the latter, the end of the former is held out."""
    from datasets import DatasetDict, load_dataset

    name = str(config.dataset_name)
    try:
        splits = load_dataset(name, config.dataset_config_name, cache_dir=config.cache_dir)
    except Exception as error:  # `datasets` raises many kinds; each means that this name cannot be loaded here
        raise ParameterError(
            "dataset_name", f"be a data set that can be loaded ({in_one_line(error)})", name
        ) from error
    if not isinstance(splits, DatasetDict) or "train" not in splits:
        raise ParameterError("dataset_name", "have a split called train", name)
    if config.text_column not in splits["train"].column_names:
        columns = ", ".join(splits["train"].column_names)
        raise ParameterError("text_column", f"be one of the columns {columns}", config.text_column)
    source = name if config.dataset_config_name is None else f"{name} ({config.dataset_config_name})"
    train = _not_blank(splits["train"][config.text_column], config.text_column)
    if config.validation_file:
        return _with_validation_files(config, train, source)
    if "validation" in splits and not config.validation_split_percentage:
        held_out = _not_blank(splits["validation"][config.text_column], config.text_column)
        return Corpus(train, held_out, f"{source}, split train", f"{source}, split validation")
    percent = config.validation_split_percentage
    return _named_split(*_split_documents(train, percent), source, percent)


def as_text(cell: object, column: str) -> str:
    """What a cell of the text column holds, "" for none. Raises `ParameterError` if that is no text."""
    if cell is not None and not isinstance(cell, str):
        raise ParameterError("text_column", f"hold text, and not {type(cell).__name__}", column)
    return cell or ""


def _not_blank(cells: Iterable[object], column: str) -> list[str]:
    return [text for text in (as_text(cell, column) for cell in cells) if text.strip()]


def tokenize(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    flag: str,
    packing: bool,
    max_length: int,
    num_workers: int = 1,
) -> Sequences:
    """Documents as token sequences of at most `max_length`; those without a token that counts are dropped.

    `num_workers` processes tokenise, and much text is tokenised once: see `tokens.token_table`.

    Raises:
        ParameterError: `flag` names text of which nothing is left, or packing has no token to put between documents.
    """
    special = np.array(sorted(set(tokenizer.all_special_ids)))
    options: dict[str, Any] = {"truncation": True, "max_length": max_length}
    if packing:
        options = {"add_special_tokens": False}
    pieces: Iterable[np.ndarray] = token_table(tokenizer, documents, options, num_workers)
    if packing:
        pieces = pack(pieces, separator(tokenizer), max_length)
    ids = TokenTable.of(piece for piece in pieces if not np.isin(piece, special).all())
    if not ids:
        raise ParameterError(flag, "hold text that has tokens besides special ones", None)
    return Sequences(ids, sum(map(len, documents)) if packing else None)


def separator(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that goes between packed documents: EOS, else SEP. Raises `ParameterError` if there is neither."""
    for token_id in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        if token_id is not None:
            return int(token_id)
    raise ParameterError("packing", "have a tokenizer with an EOS or SEP token", type(tokenizer).__name__)


def pack(documents: Iterable[np.ndarray], separator_id: int, max_length: int) -> Iterator[np.ndarray]:
    """Cuts `doc, separator, doc, …` into pieces of max_length; the last may be shorter, so that no token is lost."""
    gap = np.array([separator_id], dtype=np.int32)
    parts = [part for document in documents for part in (gap, document)][1:]
    stream = np.concatenate(parts) if parts else gap[:0]
    for start in range(0, len(stream), max_length):
        yield stream[start : start + max_length]
