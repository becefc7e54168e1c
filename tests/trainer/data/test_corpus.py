"""Which text the flags name: files and data sets, whole, held out in part, or streamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from tests.tiny import byte_tokenizer
from token_diffusion.errors import ParameterError
from trainer.__main__ import main, parse
from trainer.config import TrainingConfig
from trainer.data.corpus import load_corpus
from trainer.data.reading.documents import Documents
from trainer.data.streaming import open_documents
from trainer.output.files import check_output_dir


def configure(*flags: object) -> TrainingConfig:
    config = parse("mdlm", [str(flag) for flag in flags])
    assert isinstance(config, TrainingConfig)
    return config


def texts(documents: Documents | None) -> list[str]:
    return [] if documents is None else list(documents)


def test_lines_or_whole_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n\n  \n  two\n")
    (tmp_path / "b.txt").write_bytes("drei ä\n".encode())
    files = ["--train_file", tmp_path / "a.txt", tmp_path / "b.txt"]
    lines = load_corpus(configure(*files))
    assert texts(lines.train) == ["one", "  two", "drei ä"] and lines.train_source == "a.txt, b.txt"
    assert texts(load_corpus(configure(*files, "--packing")).train) == ["one\r\n\n  \n  two\n", "drei ä\n"]
    repeated = ["--train_file", tmp_path / "a.txt", f"--train_file={tmp_path / 'b.txt'}"]
    assert texts(load_corpus(configure(*repeated)).train) == texts(lines.train)


def test_the_last_percent_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0123456789\n")
    (tmp_path / "b.txt").write_text("abcdefgh\n")
    files = ["--train_file", tmp_path / "a.txt", tmp_path / "b.txt", "--validation_split_percentage"]
    packed = load_corpus(configure(*files, 25, "--packing"))
    assert (texts(packed.train), texts(packed.validation)) == (["0123456789\n", "abcd"], ["efgh\n"])
    assert (packed.train_source, packed.validation_source) == ("a.txt, b.txt (first 75 %)", "a.txt, b.txt (last 25 %)")
    lines = load_corpus(configure(*files, 50))
    assert (texts(lines.train), texts(lines.validation)) == (["0123456789"], ["abcdefgh"])
    with pytest.raises(ParameterError, match="validation_split_percentage must leave text on both sides"):
        load_corpus(configure(*files, 1))


def test_rows_are_held_out_whole(tmp_path: Path) -> None:
    """A table's documents are its rows, packed or not, as those of a data set are."""
    rows = [{"text": letter * 9} for letter in "abcd"]
    Dataset.from_list(rows).to_parquet(tmp_path / "a.parquet")
    for flag in ("--train_file", "--dataset_name"):
        flags = [flag, tmp_path / "a.parquet", "--validation_split_percentage=25", "--packing"]
        corpus = load_corpus(configure(*flags))
        assert (texts(corpus.train), texts(corpus.validation)) == (["a" * 9, "b" * 9, "c" * 9], ["d" * 9])
        assert corpus.validation_source == "a.parquet (last 25 %)"


def test_data_sets(tmp_path: Path) -> None:
    for split, rows in (("train", ["a", "", None, "b"]), ("validation", ["c", " "])):
        Dataset.from_dict({"words": rows}).to_parquet(tmp_path / f"{split}.parquet")
    config = configure("--dataset_name", tmp_path, "--text_column", "words")
    corpus = load_corpus(config)
    assert (texts(corpus.train), texts(corpus.validation)) == (["a", "b"], ["c"])
    streamed = load_corpus(
        configure("--dataset_name", tmp_path, "--text_column=words", "--streaming", "--max_train_steps=1")
    )
    assert streamed.train is None and texts(streamed.validation) == ["c"]
    assert (streamed.train_source, streamed.validation_source) == (corpus.train_source, corpus.validation_source)
    with pytest.raises(ParameterError, match="text_column must be one of the columns words, got 'text'"):
        load_corpus(configure("--dataset_name", tmp_path))
    with pytest.raises(ParameterError, match="dataset_name must be a data set that can be loaded"):
        load_corpus(configure("--dataset_name", tmp_path / "nothing"))


@pytest.mark.parametrize("streaming", [[], ["--streaming", "--max_train_steps=1"]], ids=["stored", "streamed"])
def test_what_save_to_disk_wrote(streaming: list[str], tmp_path: Path) -> None:
    data = Dataset.from_dict({"text": ["a", None, "b"]})
    data.save_to_disk(tmp_path / "one")
    DatasetDict(train=data, validation=Dataset.from_dict({"text": ["c"]})).save_to_disk(tmp_path / "two")
    for name, validation in (("one", []), ("two", ["c"])):
        config = configure("--dataset_name", tmp_path / name, *streaming)
        corpus = load_corpus(config)
        rows = (
            open_documents(config, byte_tokenizer()) if streaming else [{"text": text} for text in texts(corpus.train)]
        )
        assert [row["text"] for row in rows if row["text"]] == ["a", "b"] and texts(corpus.validation) == validation


def test_a_column_of_numbers_is_refused(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        Dataset.from_dict({"words": [1, 2]}).to_parquet(tmp_path / f"{split}.parquet")
    flags = ["--dataset_name", tmp_path, "--text_column", "words"]
    streamed = configure(*flags, "--streaming", "--max_train_steps=1")
    reads: list[tuple[Callable[[TrainingConfig], object], TrainingConfig]] = [
        (load_corpus, configure(*flags)),
        (load_corpus, streamed),
        (lambda config: open_documents(config, byte_tokenizer()), streamed),
    ]
    for read, config in reads:
        with pytest.raises(ParameterError, match="text_column must hold text, and not int, got 'words'"):
            read(config)


@pytest.mark.parametrize("streaming", [[], ["--streaming", "--max_train_steps=1"]], ids=["stored", "streamed"])
def test_a_data_set_out_of_reach_is_one_line(streaming: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach 'no/such'\non the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    with pytest.raises(ParameterError, match=r"dataset_name must be a data set .*reach 'no/such' on the Hub"):
        load_corpus(configure("--dataset_name=no/such", *streaming))


@pytest.mark.parametrize(
    ("flags", "rule"),
    [
        (["--train_file", "{}/absent.txt"], "train_file must be a readable file"),
        (["--train_file", "{}/blank.txt"], "train_file must hold text, and not be empty"),
        (["--train_file", "{}"], "train_file must be a file; a folder of data goes to dataset_name"),
        (["--train_file", "{}/a.csv"], "text_column must be one of the columns id, words, got 'text'"),
        (["--dataset_name", "{}/a.csv"], "text_column must be one of the columns id, words, got 'text'"),
        (
            ["--train_file", "{}/a.csv", "--text_column=words", "--validation_file", "{}/b.csv"],
            "text_column must be one of",
        ),
        (["--dataset_name", "{}/rows"], "text_column must hold text, and not be empty, got 'text'"),
    ],
)
def test_mistakes_are_one_line_before_any_work(
    flags: list[str], rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "a.csv").write_text("id,words\n1,one\n")
    (tmp_path / "b.csv").write_text("id,text\n1,one\n")
    Dataset.from_dict({"text": ["", None]}).to_parquet(tmp_path / "rows" / "train.parquet")
    asked = [flag.format(tmp_path) for flag in flags]
    assert main(["mdlm", f"--output_dir={tmp_path / 'out'}", "--report_to=none", *asked]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(rule)


def test_output_dir_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match="output_dir must be a writable folder"):
        check_output_dir(tmp_path / "file" / "out")
    check_output_dir(tmp_path / "new" / "out")
    assert list((tmp_path / "new" / "out").iterdir()) == []
