"""The byte-level tokenizer gives every text back."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from trainer.__main__ import main
from trainer.data.cutting import PIECE_CHARS
from trainer.data.tokenizer import SPECIAL_TOKENS, build_tokenizer

TEXT = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n" * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "a, b.txt").write_text(TEXT)
    arguments = [
        "tokenizer",
        "--train_file",
        str(folder / "a, b.txt"),
        "--vocab_size=300",
        f"--output_dir={folder / 'out'}",
    ]
    assert main(arguments) == 0
    return folder / "out"


@pytest.mark.parametrize(
    "text", [TEXT, "  two leading spaces", "\n\n\ttab\r\n", "naïve 日本語 🙂 é", "don ' t , stop .", " ", "\x00\x7f"]
)
def test_decoding_gives_the_text_back(folder: Path, text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_long_text_is_learnt_from_in_pieces_as_from_the_whole(tmp_path: Path) -> None:
    words = random.Random(0).choices(["the", "cat", "sat", "on", "a", "mat\n", "mat \n\n", "  dog", "ran."], k=60_000)
    text = " ".join(words)
    assert len(text) > 4 * PIECE_CHARS
    found = build_tokenizer([text], 300)
    expected = build_tokenizer(re.split(r"(?<=\S)(?=\s)", text), 300)
    assert found.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()


def test_tables_are_learnt_from_by_their_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,words\n1,the cat\n2,the dog\n" * 9)
    flags = ["--train_file", str(tmp_path / "a.csv"), "--vocab_size=280", "--output_dir", str(tmp_path / "out")]
    assert main(["tokenizer", *flags]) == 2
    assert main(["tokenizer", *flags, "--text_column=words"]) == 0
    vocabulary = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    assert "the" in vocabulary and "id" not in vocabulary and "1," not in vocabulary


def test_special_tokens_have_their_roles(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS) == [0, 1, 2, 3, 4]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 4)
    assert tokenizer.bos_token_id == tokenizer.cls_token_id == 2
    assert tokenizer.eos_token_id == tokenizer.sep_token_id == 3
    assert 261 < len(tokenizer) <= 300


def test_min_frequency_and_lowercase(folder: Path, tmp_path: Path) -> None:
    text = folder.parent / "a, b.txt"
    flags = ["--train_file", str(text), "--output_dir", str(tmp_path), "--lowercase", "--min_frequency", "1000"]
    assert main(["tokenizer", *flags]) == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 261
    assert tokenizer.decode(tokenizer("ABC É", add_special_tokens=False)["input_ids"]) == "abc é"


def test_a_hole_takes_the_space_before_it() -> None:
    tokenizer = build_tokenizer(["the cat sat on the mat"] * 3, 300)
    holes = tokenizer("the [MASK] sat", add_special_tokens=False)["input_ids"]
    words = tokenizer("the cat sat", add_special_tokens=False)["input_ids"]
    assert holes.count(tokenizer.mask_token_id) == 1
    assert [token for token in holes if token != tokenizer.mask_token_id] == [
        token for token in words if tokenizer.decode([token]) != " cat"
    ]
