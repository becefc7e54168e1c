"""Text files to token sequences: packing loses nothing, held-out text is held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from token_diffusion.errors import ParameterError
from trainer.__main__ import parse
from trainer.config import TrainingConfig
from trainer.data.corpus import Sequences, load_corpus, pack, read_files, separator, tokenize
from trainer.data.streaming import open_documents, read_pieces
from trainer.data.tokenizer import build_tokenizer
from trainer.data.tokens import TokenTable, token_table
from trainer.output.files import check_output_dir

TEXT = "To be, or not to be,\n\n  that is the question:\nWhether 'tis nobler in the mind\n" * 4


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer([TEXT], vocab_size=280)


def configure(*flags: object) -> TrainingConfig:
    config = parse("mdlm", [str(flag) for flag in flags])
    assert isinstance(config, TrainingConfig)
    return config


def test_pack_is_the_stream_cut_into_pieces() -> None:
    documents = [np.array([5, 6, 7], dtype=np.int32), np.array([8], dtype=np.int32), np.array([9, 10], dtype=np.int32)]
    assert [piece.tolist() for piece in pack(documents, 3, 3)] == [[5, 6, 7], [3, 8, 3], [9, 10]]
    assert list(pack([], 3, 3)) == []


def test_packed_files_decode_to_their_text(tokenizer: PreTrainedTokenizerBase) -> None:
    documents = [TEXT, "Ay, there's\nthe rub.\n"]
    sequences = tokenize(tokenizer, documents, flag="train_file", packing=True, max_length=16)
    assert {len(ids) for ids in sequences.ids[:-1]} == {16} and 0 < len(sequences.ids[-1]) <= 16
    stream = np.concatenate(sequences.ids)
    (gap,) = np.flatnonzero(stream == separator(tokenizer))
    assert [tokenizer.decode(stream[:gap]), tokenizer.decode(stream[gap + 1 :])] == documents
    assert sequences.num_chars == len(documents[0]) + len(documents[1])


def test_unpacked_lines_are_framed_and_truncated(tokenizer: PreTrainedTokenizerBase) -> None:
    sequences = tokenize(tokenizer, ["ab", TEXT], flag="train_file", packing=False, max_length=8)
    short, long = sequences.ids
    assert tokenizer.decode(short) == "[CLS]ab[SEP]"
    assert len(long) == 8 and long[0] == tokenizer.cls_token_id and long[-1] == tokenizer.sep_token_id
    assert sequences.num_chars is None


def test_text_of_special_tokens_only_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ParameterError, match="validation_file must hold text"):
        tokenize(tokenizer, ["[MASK][PAD]"], flag="validation_file", packing=False, max_length=8)


def test_lines_or_whole_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n\n  \n  two\n")
    (tmp_path / "b.txt").write_bytes("drei ä\n".encode())
    files = ["--train_file", tmp_path / "a.txt", tmp_path / "b.txt"]
    lines = load_corpus(configure(*files))
    assert lines.train == ["one", "  two", "drei ä"] and lines.train_source == "a.txt, b.txt"
    assert load_corpus(configure(*files, "--packing")).train == ["one\r\n\n  \n  two\n", "drei ä\n"]
    repeated = ["--train_file", tmp_path / "a.txt", f"--train_file={tmp_path / 'b.txt'}"]
    assert load_corpus(configure(*repeated)).train == lines.train


def test_the_last_percent_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0123456789\n")
    (tmp_path / "b.txt").write_text("abcdefgh\n")
    files = ["--train_file", tmp_path / "a.txt", tmp_path / "b.txt", "--validation_split_percentage"]
    packed = load_corpus(configure(*files, 25, "--packing"))
    assert (packed.train, packed.validation) == (["0123456789\n", "abcd"], ["efgh\n"])
    more = load_corpus(configure(*files, 75, "--packing"))
    assert (more.train, more.validation) == (["01234"], ["56789\n", "abcdefgh\n"])
    assert (more.train_source, more.validation_source) == ("a.txt, b.txt (first 25 %)", "a.txt, b.txt (last 75 %)")
    lines = load_corpus(configure(*files, 50))
    assert (lines.train, lines.validation) == (["0123456789"], ["abcdefgh"])
    with pytest.raises(ParameterError, match="validation_split_percentage must leave text on both sides"):
        load_corpus(configure(*files, 1))


def test_data_sets(tmp_path: Path) -> None:
    for split, rows in (("train", ["a", "", "b"]), ("validation", ["c"])):
        Dataset.from_dict({"words": rows}).to_parquet(tmp_path / f"{split}.parquet")
    config = configure("--dataset_name", tmp_path, "--text_column", "words")
    corpus = load_corpus(config)
    assert (corpus.train, corpus.validation) == (["a", "b"], ["c"])
    with pytest.raises(ParameterError, match="text_column must be one of the columns words, got 'text'"):
        load_corpus(configure("--dataset_name", tmp_path))
    with pytest.raises(ParameterError, match="dataset_name must be a data set that can be loaded"):
        load_corpus(configure("--dataset_name", tmp_path / "nothing"))


def test_a_column_of_numbers_is_refused(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        Dataset.from_dict({"words": [1, 2]}).to_parquet(tmp_path / f"{split}.parquet")
    flags = ["--dataset_name", tmp_path, "--text_column", "words"]
    streamed = configure(*flags, "--streaming", "--max_train_steps=1")
    reads: list[tuple[Callable[[TrainingConfig], object], TrainingConfig]] = [
        (load_corpus, configure(*flags)),
        (load_corpus, streamed),
        (open_documents, streamed),
    ]
    for read, config in reads:
        with pytest.raises(ParameterError, match="text_column must hold text, and not int, got 'words'"):
            read(config)


def test_a_data_set_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamed without a validation file, its split `validation` is looked for first."""

    def unreachable(*arguments: Any, **options: Any) -> None:
        raise ConnectionError("Couldn't reach 'no/such'\non the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    config = configure("--dataset_name=no/such", "--streaming", "--max_train_steps=1")
    with pytest.raises(ParameterError, match=r"dataset_name must be a data set .*reach 'no/such' on the Hub"):
        load_corpus(config)


def test_stored_and_streamed_lines_are_the_same(tmp_path: Path) -> None:
    """Form feeds and Unicode's own separators are characters of a line."""
    (tmp_path / "a.txt").write_bytes("a b\u2028c d\nx\x0cy\rz\x85\r\n\x1c\n \n\ve".encode())
    config = configure("--train_file", tmp_path / "a.txt")
    expected = ["a b\u2028c d", "x\x0cy", "z\x85", "\ve"]
    assert load_corpus(config).train == expected
    assert [row["text"] for row in read_pieces([(0, str(tmp_path / "a.txt"))], False)] == expected


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, rule in (("absent.txt", "readable file"), ("empty.txt", "not be empty"), ("latin.txt", "byte 3 is not")):
        with pytest.raises(ParameterError, match=f"train_file must .*{rule}.*{name}"):
            read_files("train_file", [tmp_path / name])
    with pytest.raises(ParameterError, match="readable file"):
        read_files("train_file", [tmp_path])


def test_output_dir_must_be_writable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ParameterError, match="output_dir must be a writable folder"):
        check_output_dir(tmp_path / "file" / "out")
    check_output_dir(tmp_path / "new" / "out")
    assert list((tmp_path / "new" / "out").iterdir()) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_much_text_is_tokenised_once(
    num_workers: int, tokenizer: PreTrainedTokenizerBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [TEXT[i % 50 :] for i in range(20)]
    options: dict[str, Any] = {"add_special_tokens": False}
    expected = token_table(tokenizer, documents, options)
    monkeypatch.setattr("trainer.data.tokens.MIN_CACHED_CHARS", 100)
    monkeypatch.setattr("trainer.data.tokens.TOKENIZER_BATCH", 4)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    made = token_table(tokenizer, documents, options, num_workers)
    assert len(made) == 20 and len(list((tmp_path / "token-diffusion").glob("*.npy"))) == 2
    monkeypatch.setattr("trainer.data.tokens.encode", None)  # from now on there is nothing to tokenise with
    found = token_table(tokenizer, documents, options, num_workers)
    for table in (made, found):
        assert all(np.array_equal(here, there) for here, there in zip(table, expected, strict=True))
    others: list[tuple[list[str], dict[str, Any]]] = [(documents[1:], options), (documents, {"truncation": True})]
    for other in others:
        with pytest.raises(TypeError):  # other text, or another way to tokenise it, is not in the cache
            token_table(tokenizer, *other)


def test_a_token_table_is_a_sequence_of_arrays() -> None:
    arrays = [np.array([1, 2, 3]), np.array([], dtype=np.int64), np.array([4])]
    table = TokenTable.of(arrays)
    assert [ids.tolist() for ids in table] == [[1, 2, 3], [], [4]] and table[-1].tolist() == [4]
    assert [ids.tolist() for ids in table[:2]] == [[1, 2, 3], []] and len(table) == 3
    with pytest.raises(IndexError):
        table[3]
    assert not TokenTable.of([])
    one, other = (Sequences(TokenTable.of(parts), None) for parts in (arrays, [*arrays[:1], arrays[2]]))
    assert one.fingerprint != other.fingerprint == Sequences(TokenTable.of(arrays[::2]), None).fingerprint
