"""Streamed text: nothing is lost or repeated in an epoch, and any position can be gone on from, whoever stopped where."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice, pairwise
from pathlib import Path
from threading import enumerate as threads
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from tests.tiny import byte_tokenizer, tiny_tokenizer, wordpiece_tokenizer
from token_diffusion.errors import ParameterError
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.data import cutting, streaming
from trainer.data.corpus import load_corpus
from trainer.data.sequences import tokenize
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
    if not any(str(flag).startswith(("--dataset_name", "--train_file")) for flag in flags):
        common += ["--train_file", str(files / "a.txt"), str(files / "b.txt")]
    config = parse("mdlm", [*common, *map(str, flags)])
    assert isinstance(config, TrainingConfig)
    return config


def text_of(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def stream(
    config: TrainingConfig, tokenizer: PreTrainedTokenizerBase, process: int = 0, of: int = 1, **options: Any
) -> Generator[tuple[np.ndarray, Position], None, None]:
    examples = iter(SequenceStream(open_documents(config, tokenizer), tokenizer, config, process, of, **options))
    with closing(examples):
        for example, position in examples:
            yield example.ids, position


@pytest.mark.parametrize("flags", [[], ["--dataset_name={data}", "--text_column=words"]], ids=["files", "data set"])
def test_an_epoch_has_each_line_once_in_another_order(
    flags: list[str], files: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = configure(files, *(flag.format(data=files / "data") for flag in flags))
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


def epoch(config: TrainingConfig, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """The sequences of the first epoch in the order of the text."""
    blocks = SequenceStream(open_documents(config, tokenizer), tokenizer, config, 0, 1)._blocks()
    found: list[np.ndarray] = []
    for start, sequences in blocks:
        if start.epoch:
            return found
        found += [each.ids for each in sequences]
    raise AssertionError("there is no end")


DATA = [
    "the cat",
    "",
    "  ",
    None,
    "[MASK] [SEP]",
    "a dog\0ran",
    "x" * 90,
    "[PAD]",
    "\n",
    "on the mat and sat",
    "w",
] * 9


def write_data(folder: Path) -> None:
    rows = Dataset.from_dict({"text": DATA})
    rows.to_parquet(folder / "rows" / "train.parquet")
    rows.save_to_disk(folder / "saved")
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DATA))
    (folder / "lines.txt").write_text("\n\n".join(text for text in DATA if text is not None))


@pytest.mark.parametrize(
    "source",
    ["--train_file={}/lines.txt", "--train_file={}/rows.jsonl", "--dataset_name={}/rows", "--dataset_name={}/saved"],
)
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("make", [byte_tokenizer, wordpiece_tokenizer, tiny_tokenizer])
def test_streamed_text_is_stored_text(
    source: str,
    packing: bool,
    make: Callable[[], PreTrainedTokenizerBase],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blank rows, rows of nothing, of control tokens, of unknown words: the same sequences in the same order."""
    write_data(tmp_path)
    for name, value in {"PIECE_CHARS": 80, "CONTEXT": 40}.items():
        monkeypatch.setattr(cutting, name, value)
    tokenizer, flags = make(), [source.format(tmp_path), *(["--packing"] if packing else [])]
    config = configure(tmp_path, *flags)
    stored = load_corpus(config.model_copy(update={"streaming": False})).train
    assert stored is not None
    if make is tiny_tokenizer and packing:
        tokenizer.eos_token = "[SEP]"
    try:
        expected = list(tokenize(tokenizer, stored, flag="train_file", packing=packing, max_length=16).ids)
    except ParameterError:  # nothing but unknown words
        with pytest.raises(ParameterError, match="train_file or dataset_name must hold text for every process"):
            epoch(config, tokenizer)
        return
    expected = [ids for ids in expected if not packing or len(ids) == 16]  # a stream goes on where the text ends
    found = epoch(config, tokenizer)
    assert [ids.tolist() for ids in found] == [ids.tolist() for ids in expected] and len(found) > 9


@pytest.mark.parametrize("size", [1, 7, 40])
@pytest.mark.parametrize("flags", [[], ["--packing"]])
def test_blocks_are_as_large_as_asked(
    size: int, flags: list[str], files: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    """However much text is tokenised at a time; only the last of an epoch may be smaller."""
    config = configure(files, *flags, f"--shuffle_buffer_size={size}")
    blocks = SequenceStream(open_documents(config, tokenizer), tokenizer, config, 0, 1)._blocks()
    found = list(islice(blocks, 3 + 300 // size))
    assert [start.block for start, _ in found] == list(range(len(found)))
    for (start, sequences), (following, _) in pairwise(found):
        assert len(sequences) == size or following.epoch == start.epoch + 1
    assert max(start.epoch for start, _ in found) >= 1


def test_a_text_of_less_than_a_sequence_is_gone_through_until_there_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat\n")
    tokenizer = byte_tokenizer()
    config = configure(tmp_path, f"--train_file={tmp_path / 'a.txt'}", "--packing", "--shuffle_buffer_size=10000")
    (ids,) = tokenizer(["the cat\n"], add_special_tokens=False)["input_ids"]
    expected = np.resize([*ids, tokenizer.sep_token_id], 5 * 16)
    found = [ids for ids, _ in islice(stream(config, tokenizer), 5)]
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_packed_text_without_a_token_that_counts_ends_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("never ever " * 50)
    tokenizer = tiny_tokenizer()
    config = configure(tmp_path, f"--train_file={tmp_path / 'a.txt'}", "--packing")
    with pytest.raises(ParameterError, match="train_file or dataset_name must hold text for every process"):
        next(stream(config, tokenizer))


def test_that_long_documents_are_cut_off_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.txt").write_text("w1 w2 w3 w4\n" * 200)
    config = configure(tmp_path, f"--train_file={tmp_path / 'a.txt'}", "--max_length=3")
    next(stream(config, tiny_tokenizer()))
    assert caplog.messages == [
        "train_file: documents are cut off at --max_length 3; --packing would keep what is lost"
    ]


def test_the_first_block_has_a_bar_where_somebody_looks(
    files: Path,
    tokenizer: PreTrainedTokenizerBase,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def noted(**options: Any) -> Any:
        asked.append(options["disable"])
        return tqdm(**options)

    monkeypatch.setattr(streaming, "tqdm", noted)
    for progress in (False, True):
        next(stream(configure(files), tokenizer, progress=progress))
    assert asked == [True, None]  # None is tqdm's word for: unless stderr is a file
    assert capsys.readouterr().err == ""


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
    for name, value in {"PIECE_CHARS": 200, "CONTEXT": 60}.items():
        monkeypatch.setattr(cutting, name, value)
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
        ({"train_file": "blank.txt"}, "train_file must hold text, and not be empty"),
        ({"train_file": "latin.txt"}, "train_file must be UTF-8 text"),
        ({"train_file": None, "dataset_name": "absent"}, "dataset_name must be a data set that can be loaded"),
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
