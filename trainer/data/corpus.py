"""Which text a command names: files or data sets to train on, and what is held out of it or given beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from token_diffusion.errors import ParameterError

from ..config import TrainingConfig
from ..errors import in_one_line
from ..output.provenance import told_apart
from .chat.conversations import dataset_conversations, read_conversations
from .reading.documents import Documents, labelled_pieces, read_pieces, row_pieces
from .reading.files import check_column, is_table, quiet, table_cells
from .reading.labels import FLAG, FoundLabels, row_labels, row_names


@dataclass(frozen=True)
class Corpus:
    """Documents to train on (None where they are streamed) and to validate on, and whence they came (names, no paths)."""

    train: Documents | None
    validation: Documents | None
    train_source: str
    validation_source: str

    @property
    def labels(self) -> FoundLabels | None:
        """Of the documents to train on; None where they have none, or are streamed."""
        return None if self.train is None else self.train.survey.labels


def load_corpus(config: TrainingConfig) -> Corpus:
    """The documents that the flags name, all read once but those streamed. Raises `ParameterError` for what cannot be read."""
    flag, files = train_files(config)
    if not files:
        return _load_dataset(config)
    source = _names(files)
    train = None if config.streaming else _read_files(config, flag, files)
    if config.validation_file:
        return _with_validation_files(config, train, source)
    if train is None:
        return Corpus(None, None, source, "")
    characters = config.packing and not all(map(is_table, files))
    return _with_split(config, train, source, "characters" if characters else "documents")


def train_files(config: TrainingConfig) -> tuple[str, list[Path]]:
    """The files to train on and the flag that names them; no files where that names a data set."""
    if config.dataset_name is None:
        return "train_file", config.train_file
    path = Path(config.dataset_name)
    return "dataset_name", [path] if path.is_file() else []


def read_documents(
    flag: str, files: Sequence[Path], packing: bool, text_column: str = "text", label_column: str | None = None
) -> Documents:
    """The files' documents (see `documents.read_pieces`, also for what is raised), read once to see whether they can be."""
    columns: dict[str, Any] = {"text_column": text_column, "label_column": label_column}
    documents = Documents(partial(read_pieces, flag, list(enumerate(files)), packing=packing, **columns))
    assert documents.survey.num_documents
    return documents


def _read_files(config: TrainingConfig, flag: str, files: Sequence[Path]) -> Documents:
    """The documents of files: text, or conversations."""
    if not config.is_chat:
        return read_documents(flag, files, config.packing, config.text_column, config.label_column)
    documents = Documents(partial(read_conversations, flag, list(enumerate(files))))
    assert documents.survey.num_documents
    return documents


def open_dataset(config: TrainingConfig) -> dict[str, Any]:
    """The splits of the data set that the flags name, `train` among them, as `datasets` has them (streamed or stored).

    Raises `ParameterError` if they cannot be read or have no such text column.
    """
    name, column = str(config.dataset_name), config.text_column
    quiet()
    try:
        splits = _open_splits(name, config)
        columns: Any = ()
        if "train" in splits:
            columns = splits["train"].column_names or next(iter(splits["train"].take(1)), {})
    except Exception as error:  # `datasets` raises many kinds; each means that this name cannot be loaded here
        rule = f"be a data set that can be loaded ({in_one_line(error)})"
        raise ParameterError("dataset_name", rule, name) from error
    if "train" not in splits:
        raise ParameterError("dataset_name", "have a split called train", name)
    if not config.is_chat:
        check_column(column, columns)
        if config.label_column is not None:
            check_column(config.label_column, columns, FLAG)
    elif not {"messages"} <= {*columns} and not {"prompt", "completion"} <= {*columns}:
        rule = "have a column messages, or columns prompt and completion"
        raise ParameterError("dataset_name", rule, list(columns))
    return splits


def _open_splits(name: str, config: TrainingConfig) -> dict[str, Any]:
    from datasets import Dataset, load_dataset, load_from_disk

    if not any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json")):
        options = {"streaming": config.streaming, "cache_dir": config.cache_dir}
        return dict(load_dataset(name, config.dataset_config_name, **options))
    saved = load_from_disk(name)
    splits = {"train": saved} if isinstance(saved, Dataset) else saved
    return {split: rows.to_iterable_dataset() if config.streaming else rows for split, rows in splits.items()}


def _load_dataset(config: TrainingConfig) -> Corpus:
    """Train and validation splits of a data set; without the latter, the end of the former is held out."""
    part = config.dataset_config_name
    source = f"{config.dataset_name}{'' if part is None else f' ({part})'}"
    if config.streaming and config.validation_file:
        return _with_validation_files(config, None, f"{source}, split train")
    splits = open_dataset(config)
    train = None if config.streaming else _rows(config, splits["train"], "split train")
    if config.validation_file:
        return _with_validation_files(config, train, source)
    whole = f"{source}, split train"
    if "validation" in splits and not config.validation_split_percentage:
        validation = _rows(config, splits["validation"], "split validation")
        return Corpus(train, validation, whole, f"{source}, split validation")
    return Corpus(None, None, whole, "") if train is None else _with_split(config, train, source, "documents")


def _rows(config: TrainingConfig, rows: Any, where: str) -> Documents:
    column, labels = config.text_column, config.label_column
    if config.is_chat:
        return Documents(lambda: dataset_conversations(rows))
    if labels is None:
        documents = Documents(lambda: row_pieces(table_cells(rows, column)))
    else:
        names = row_names(rows, labels)
        documents = Documents(
            lambda: labelled_pieces(table_cells(rows, column), row_labels(rows, labels), where), names=names
        )
    if not documents.survey.num_documents:
        raise ParameterError("text_column", "hold text, and not be empty", column)
    return documents


def _with_validation_files(config: TrainingConfig, train: Documents | None, source: str) -> Corpus:
    files = config.validation_file
    validation = _read_files(config, "validation_file", files)
    return Corpus(train, validation, source, _names(files))


def _with_split(
    config: TrainingConfig, documents: Documents, source: str, unit: Literal["documents", "characters"]
) -> Corpus:
    percent = config.validation_split_percentage
    if not percent:
        return Corpus(documents, None, source, "")
    train, validation = documents.split(percent, unit)
    return Corpus(train, validation, f"{source} (first {100 - percent:g} %)", f"{source} (last {percent:g} %)")


def _names(files: Sequence[Path]) -> str:
    return ", ".join(told_apart(files))
