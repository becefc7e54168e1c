"""Conversations in TRL's formats, from each kind of file, and what is said of those that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset

from token_diffusion.errors import ParameterError
from trainer.data.chat.conversations import (
    Exchange,
    as_document,
    dataset_conversations,
    exchanges,
    read_conversations,
)

ASKED, SAID = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
TALK = [ASKED, SAID, {"role": "user", "content": "and?"}, {"role": "assistant", "content": "so", "name": "a"}]
ROWS: list[dict[str, Any]] = [{"messages": TALK}, {"messages": [ASKED, SAID]}]


def documents(*files: Path) -> list[dict[str, Any]]:
    return [json.loads(piece.text) for piece in read_conversations("train_file", list(enumerate(files)))]


def write(file: Path, rows: list[Any]) -> Path:
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == ".arrow":
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("\n".join(map(json.dumps, rows)))
    return file


@pytest.mark.parametrize("kind", ["json", "jsonl", "ndjson", "parquet", "arrow"])
def test_each_kind_of_file_has_the_same_conversations(kind: str, tmp_path: Path) -> None:
    """In a table each message has the keys of all others, empty."""
    assert documents(write(tmp_path / f"rows.{kind}", ROWS)) == ROWS


def test_a_data_set_does_too() -> None:
    found = dataset_conversations(Dataset.from_list([{"more": 1, **row} for row in ROWS]))
    assert [json.loads(piece.text) for piece in found] == ROWS


def test_a_prompt_and_its_completion_are_strings_or_messages() -> None:
    plain = {"prompt": "one, ", "completion": "two"}
    assert list(exchanges(as_document(plain, "row 1"), False)) == [Exchange(plain=("one, ", "two"))]
    spoken = as_document({"prompt": [ASKED], "completion": [SAID], "id": 7}, "row 1")
    assert list(exchanges(spoken, False)) == [Exchange((ASKED, SAID))]


def test_the_last_answer_is_learnt_or_every_one_behind_what_came_before_it() -> None:
    document = as_document({"messages": [*TALK, ASKED]}, "row 1")
    assert list(exchanges(document, False)) == [Exchange(tuple(TALK))]
    assert list(exchanges(document, True)) == [Exchange(tuple(TALK[:2])), Exchange(tuple(TALK))]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (7, "line 1 is no object but int"),
        ({"text": "a"}, "line 1 must have messages, or prompt and completion, not text"),
        ({}, "line 1 must have messages, or prompt and completion, not nothing"),
        (
            {"prompt": "a"},
            "must have prompt and completion, both strings or both lists of messages, not str and NoneType",
        ),
        ({"prompt": "a", "completion": [SAID]}, "not str and list"),
        ({"messages": "hi"}, "must have a list of messages, not str"),
        ({"messages": ["hi"]}, "must have messages that are objects, not str"),
        ({"messages": [{"role": "user"}]}, "must have messages with a string as content, not NoneType"),
        ({"messages": [ASKED]}, "must have a message of the assistant behind another one"),
        ({"messages": [SAID, ASKED]}, "must have a message of the assistant behind another one"),
        ({"messages": [ASKED, {**SAID, "content": "\ud800"}]}, "line 1 has half a surrogate pair in it"),
    ],
)
def test_a_row_that_is_none_is_named(row: Any, complaint: str, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [row])
    with pytest.raises(ParameterError, match=r"train_file must be a readable \.jsonl file") as caught:
        documents(file)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.txt", "hi", "be a table of conversations"),
        ("a.csv", "prompt,completion\na,b\n", "be a table of conversations"),
        ("a.jsonl", "\n", "hold text, and not be empty"),
        ("a.jsonl", '{"messages": [', "be a readable .jsonl file"),
        ("a.parquet", "PAR1", "be a readable .parquet file"),
        ("a.arrow", "ARROW1", "be a readable .arrow file"),
    ],
)
def test_a_file_that_holds_none_is_refused(name: str, content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ParameterError, match=complaint):
        documents(tmp_path / name)
