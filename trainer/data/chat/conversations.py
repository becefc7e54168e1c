"""Conversations in TRL's formats: `messages`, or `prompt` and `completion`, each strings or messages.

As a document a conversation is its JSON, so that it is split, counted and compared as any other text is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow.parquet import ParquetFile

from token_diffusion.errors import ParameterError

from ..reading.documents import Piece
from ..reading.files import BATCH_ROWS, EMPTY, arrow_batches, check_file, json_rows, kind, readable

COLUMNS = ("messages", "prompt", "completion")
KINDS = (".json", ".jsonl", ".ndjson", ".parquet", ".arrow")

Message = dict[str, str]


class Exchange(NamedTuple):
    """What is given and what is to be learnt: `messages`, the last of them the answer, or the two strings of `plain`."""

    messages: tuple[Message, ...] = ()
    plain: tuple[str, str] | None = None


def read_conversations(flag: str, files: Iterable[tuple[int, Path]]) -> Iterator[Piece]:
    """The conversations of files, each with its index, as documents. Raises `ParameterError` for what holds no such rows."""
    for index, path in files:
        if kind(path) not in KINDS:
            raise ParameterError(flag, f"be a table of conversations ({', '.join(KINDS)})", str(path))
        empty = True
        with readable(flag, path):
            for number, (place, row) in enumerate(_rows(flag, path)):
                empty = False
                yield Piece(as_document(row, place), (index, number))
        if empty:
            raise ParameterError(flag, EMPTY, str(path))


def dataset_conversations(rows: Any) -> Iterator[Piece]:
    """Those of rows of `datasets`. Raises `ParameterError` as `read_conversations` does."""
    columns = [name for name in rows.column_names if name in COLUMNS]
    number = 0
    for table in rows.select_columns(columns).with_format("arrow").iter(BATCH_ROWS):
        for row in table.to_pylist():
            try:
                text = as_document(row, f"row {number + 1}")
            except ValueError as error:
                raise ParameterError("dataset_name", f"hold conversations ({error})", columns) from error
            yield Piece(text, (0, number))
            number += 1


def as_document(row: object, place: str) -> str:
    """The JSON of a row's conversation. Raises `ValueError`, which names the row's place, if it holds none."""
    try:
        text = json.dumps(_conversation(row), ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place} has half a surrogate pair in it") from None
    except ValueError as error:
        raise ValueError(f"{place} {error}") from None
    return text


def exchanges(document: str, every_answer: bool) -> Iterator[Exchange]:
    """Of a conversation the last answer of the assistant with what comes before it; or every answer with that."""
    conversation = json.loads(document)
    if "prompt" in conversation:
        yield Exchange(plain=(conversation["prompt"], conversation["completion"]))
        return
    messages = conversation["messages"]
    for index in _answers(messages)[0 if every_answer else -1 :]:
        yield Exchange(tuple(messages[: index + 1]))


def _rows(flag: str, path: Path) -> Iterator[tuple[str, object]]:
    """Each row with its place in words."""
    if kind(path) == ".parquet":
        check_file(flag, path)
        with ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name in COLUMNS]
            yield from _numbered(file.iter_batches(BATCH_ROWS, columns=names))
    elif kind(path) == ".arrow":
        check_file(flag, path)
        with pyarrow.memory_map(str(path)) as source:
            yield from _numbered(_checked(arrow_batches(source)))
    else:
        yield from json_rows(flag, path)


def _checked(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        batch.validate(full=True)  # broken bytes may say that a cell lies anywhere in memory
        yield batch


def _numbered(batches: Iterable[Any]) -> Iterator[tuple[str, object]]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"row {number}", row


def _conversation(row: object) -> dict[str, Any]:
    """With `messages`, or with a string each as `prompt` and `completion`."""
    if not isinstance(row, Mapping):
        raise ValueError(f"is no object but {type(row).__name__}")
    messages, prompt, completion = (row.get(name) for name in COLUMNS)
    if messages is None and isinstance(prompt, str) and isinstance(completion, str):
        return {"prompt": prompt, "completion": completion}
    if messages is None and isinstance(prompt, list) and isinstance(completion, list):
        messages = [*prompt, *completion]
    if messages is None and (prompt is not None or completion is not None):
        kinds = " and ".join(type(each).__name__ for each in (prompt, completion))
        raise ValueError(f"must have prompt and completion, both strings or both lists of messages, not {kinds}")
    if messages is None:
        raise ValueError(f"must have messages, or prompt and completion, not {', '.join(map(str, row)) or 'nothing'}")
    if not isinstance(messages, list):
        raise ValueError(f"must have a list of messages, not {type(messages).__name__}")
    found = [_message(each) for each in messages]
    if not _answers(found):
        raise ValueError("must have a message of the assistant behind another one")
    return {"messages": found}


def _message(message: object) -> Message:
    """Without what is null, as all that a table knows is in each of its rows."""
    if not isinstance(message, Mapping):
        raise ValueError(f"must have messages that are objects, not {type(message).__name__}")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            raise ValueError(f"must have messages with a string as {key}, not {type(message.get(key)).__name__}")
    return {key: value for key, value in message.items() if isinstance(value, str)}


def _answers(messages: list[Message]) -> list[int]:
    return [index for index, message in enumerate(messages) if index and message["role"] == "assistant"]
