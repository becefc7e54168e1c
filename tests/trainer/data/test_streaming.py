"""Streamed text: nothing is lost or repeated in an epoch, and any position can be gone on from, whoever stopped where."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from threading import enumerate as threads
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.data.streaming import Position, SequenceStream, open_documents, read_ahead
from trainer.data.tokenizer import build_tokenizer

WORDS = ["the cat sat", "a dog ran", "on the mat", "to the dog", "and sat"]
LINES = [f"{WORDS[i % 5]} {i}" for i in range(150)]
TINY = "hidden_size=32,num_hidden_layers=1,num_attention_heads=2,intermediate_size=64"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer(LINES, vocab_size=280)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerBase) -> Path:
    folder = tmp_path_factory.mktemp("streaming")
    (folder / "a.txt").write_text("\n".join(LINES[:100]) + "\n\n")
    (folder / "b.txt").write_text("\n".join(LINES[100:]) + "\n")
    Dataset.from_dict({"words": LINES}).to_parquet(folder / "data" / "train.parquet")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def configure(files: Path, *flags: object) -> TrainingConfig:
    common = ["--streaming", "--max_train_steps=4", "--max_length=16", "--shuffle_buffer_size=20"]
    if not any(str(flag).startswith("--dataset_name") for flag in flags):
        common += ["--train_file", str(files / "a.txt"), str(files / "b.txt")]
    config = parse("mdlm", [*common, *map(str, flags)])
    assert isinstance(config, TrainingConfig)
    return config


def text_of(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def stream(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, process: int = 0, of: int = 1, **options: Any
) -> Iterator[tuple[np.ndarray, Position]]:
    return iter(SequenceStream(open_documents(config), tokenizer, config, process, of, **options))


@pytest.mark.parametrize("flags", [[], ["--dataset_name={data}", "--text_column=words"]], ids=["files", "data set"])
def test_an_epoch_has_each_line_once_in_another_order(
    flags: list[str], files: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = configure(files, *(flag.format(data=files / "data") for flag in flags))
    # Blocks end with what is tokenised at a time, so an epoch ends with a block's part.
    found = [text_of(tokenizer, ids) for ids, _ in islice(stream(config, tokenizer), 150)]
    assert Counter(found) == Counter(LINES) and found != LINES
    again = [text_of(tokenizer, ids) for ids, _ in islice(stream(config, tokenizer), 150)]
    assert found == again


def test_processes_share_the_lines(files: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    config = configure(files, f"--dataset_name={files / 'data'}", "--text_column=words")
    found: Counter[str] = Counter()
    for process in range(3):
        share = [text_of(tokenizer, ids) for ids, _ in islice(stream(config, tokenizer, process, 3), 50)]
        assert len(set(share)) == 50
        found.update(share)
    assert found == Counter(LINES)


def test_packed_files_are_cut_into_whole_sequences(
    files: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One block of everything, put back in order: both files, a separator between, pieces joined without one."""
    monkeypatch.setattr("trainer.data.streaming.PIECE_CHARS", 200)
    config = configure(files, "--packing", "--shuffle_buffer_size=40")
    sequences = SequenceStream(open_documents(config), tokenizer, config, 0, 1)
    sequences.epoch, sequences.source, sequences.last = 0, None, None
    sequences.rest = np.empty(0, np.int32)
    pieces: list[np.ndarray] = []
    for batch in sequences._batches():
        if sequences.epoch:
            break
        pieces += batch
        rest = sequences.rest
    assert {len(piece) for piece in pieces} == {16} and len(rest) < 16
    tokens = np.concatenate([*pieces, rest])
    (gap,) = np.flatnonzero(tokens == tokenizer.eos_token_id)
    assert tokenizer.decode(tokens[:gap]) == (files / "a.txt").read_text()
    assert tokenizer.decode(tokens[gap + 1 :]) == (files / "b.txt").read_text()


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--packing"],
        ["--dataset_name={data}", "--text_column=words"],
        ["--packing", "--dataset_name={data}", "--text_column=words"],
    ],
    ids=["lines", "packed files", "data set", "packed data set"],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_every_position_can_be_gone_on_from(
    flags: list[str], processes: int, files: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over more than two epochs, in their midst and at their ends; the position goes through JSON as in a checkpoint."""
    monkeypatch.setattr("trainer.data.streaming.PIECE_CHARS", 200)
    config = configure(files, *(flag.format(data=files / "data") for flag in flags))
    process = processes - 1
    whole = list(islice(stream(config, tokenizer, process, processes), 320))
    for stopped in (1, 19, 63, 64, 75, 149, 150, 151, 299, 301):
        position = Position(*json.loads(json.dumps(whole[stopped - 1][1])))
        rest = list(islice(stream(config, tokenizer, process, processes, position=position), 320 - stopped))
        for (found, _), (expected, _) in zip(rest, whole[stopped:], strict=True):
            np.testing.assert_array_equal(found, expected)


def arguments(files: Path, output_dir: Path, *switches: str, **changes: object) -> list[str]:
    options: dict[str, object] = {
        "tokenizer_name": files / "tokenizer",
        "train_file": files / "a.txt",
        "validation_file": files / "b.txt",
        "config_name": "bert",
        "config_overrides": TINY,
        "output_dir": output_dir,
        "max_length": 16,
        "max_train_steps": 30,
        "checkpointing_steps": 12,
        "shuffle_buffer_size": 30,
        "gradient_accumulation_steps": 2,
    }
    flags = [f"--{name}={value}" for name, value in {**options, **changes}.items() if value is not None]
    return ["mdlm", "--streaming", *flags, *switches]


def test_a_streamed_run_goes_on_bit_for_bit(files: Path, tmp_path: Path) -> None:
    """Two of its epochs and a half; the thread that reads ahead had read more than was trained on."""
    assert main(arguments(files, tmp_path / "whole", "--packing")) == 0
    (tmp_path / "resumed").mkdir()
    (tmp_path / "whole" / "checkpoint-12").rename(tmp_path / "resumed" / "checkpoint-12")
    assert main(arguments(files, tmp_path / "resumed", "--packing", "--resume_from_checkpoint=latest")) == 0
    expected, found = (load_file(tmp_path / run / "final" / "model.safetensors") for run in ("whole", "resumed"))
    assert all((found[name] == expected[name]).all() for name in expected)
    assert not [thread for thread in threads() if thread.name == "read ahead"]
    card = (tmp_path / "whole" / "final" / "README.md").read_text()
    assert "a.txt; streamed, sequences of at most 16 tokens, packed" in card  # nobody has counted them


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"max_train_steps": None}, "max_train_steps must be given with streaming"),
        ({"validation_file": None, "validation_split_percentage": 5}, "validation_split_percentage must be left out"),
        ({"dataloader_num_workers": 2}, "dataloader_num_workers must be 0 with streaming"),
        ({"train_file": "absent"}, "train_file must be a readable file"),
        ({"train_file": "blank.txt"}, "train_file or dataset_name must hold text for every process"),
        ({"train_file": "latin.txt"}, "train_file must be UTF-8 text"),
        ({"train_file": None, "dataset_name": "absent"}, "dataset_name must have a split train that can be streamed"),
        ({"train_file": None, "dataset_name": "data"}, "text_column must be one of the columns words, got 'text'"),
    ],
)
def test_mistakes_are_one_line(
    changes: dict[str, Any], rule: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "blank.txt").write_text("\n \n")
    (files / "latin.txt").write_bytes(b"caf\xe9\n")
    for name in ("train_file", "dataset_name"):
        if changes.get(name):
            changes = {**changes, name: files / changes[name]}
    assert main(arguments(files, tmp_path, **changes)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(rule)


def test_reading_ahead_keeps_order_and_raises_where_the_item_is_wanted() -> None:
    def items() -> Iterator[int]:
        yield from range(50)
        raise ParameterError("train_file", "end well", 50)

    found = []
    with pytest.raises(ParameterError, match="end well"):
        for item in read_ahead(items(), 3):
            found.append(item)
    assert found == list(range(50))
    assert list(read_ahead(iter(range(9)), 2)) == list(range(9))


def test_reading_ahead_ends_with_its_reader() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(10**9):
            made.append(item)
            yield item

    reader = read_ahead(items(), 4)
    assert [next(reader) for _ in range(3)] == [0, 1, 2]
    reader.close()
    count = len(made)
    assert count <= 3 + 4 + 2
    assert not [thread for thread in threads() if thread.name == "read ahead"] and len(made) == count
