"""The byte-level tokenizer gives every text back, that of SMILES every molecule of its tokens."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from server.api.pieces import pieces
from token_diffusion.text import OPEN, decode, encode
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


MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "C[C@@H](N)C(=O)[O-]",
    "ClCBr",
    "C%12CC%12",
    "F/C=C\\F",
    "[nH]1cccc1",
    "c1cc2c(cc1)[nH]cc2",
]


@pytest.fixture(scope="module")
def smiles(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("smiles")
    (folder / "molecules.txt").write_text("\n".join(MOLECULES))
    flags = ["--kind=smiles", "--train_file", str(folder / "molecules.txt"), "--output_dir", str(folder / "out")]
    assert main(["tokenizer", *flags]) == 0
    return AutoTokenizer.from_pretrained(folder / "out")


def test_smiles_are_atoms_bonds_branches_and_rings(smiles: PreTrainedTokenizerBase) -> None:
    assert smiles.tokenize("C[C@@H](N)C(=O)[O-]") == ["C", "[C@@H]", "(", "N", ")", "C", "(", "=", "O", ")", "[O-]"]
    assert smiles.tokenize("ClCBr") == ["Cl", "C", "Br"] and smiles.tokenize("C%12CC%12") == [
        "C",
        "%12",
        "C",
        "C",
        "%12",
    ]
    assert smiles.convert_ids_to_tokens(list(range(5))) == SPECIAL_TOKENS
    assert set(smiles.get_vocab()) == {
        *SPECIAL_TOKENS,
        *(token for text in MOLECULES for token in smiles.tokenize(text)),
    }


@pytest.mark.parametrize("text", MOLECULES)
def test_decoding_gives_smiles_back_without_spaces(smiles: PreTrainedTokenizerBase, text: str) -> None:
    ids = smiles(text)["input_ids"]
    assert (ids[0], ids[-1]) == (smiles.cls_token_id, smiles.sep_token_id) and smiles.unk_token_id not in ids
    assert smiles.decode(ids, skip_special_tokens=True) == text == decode(smiles, ids)


def test_smiles_have_holes_pieces_and_unknown_atoms(smiles: PreTrainedTokenizerBase) -> None:
    ids = encode(smiles, seq_len=None, template="CC(=O)[MASK]c1[MASK]ccc[MASK]1")
    assert [index for index, id in enumerate(ids) if id == OPEN] == [6, 9, 13]
    assert pieces(smiles, range(len(smiles)))[5:] == smiles.convert_ids_to_tokens(list(range(5, len(smiles))))
    assert smiles.tokenize("C[Si]C") == ["C", "[UNK]", "C"]
    with pytest.raises(ValueError, match=r"prompt must hold no '\[MASK\]'"):
        encode(smiles, seq_len=8, prompt="C[MASK]")


@pytest.mark.parametrize(
    ("text", "flags", "problem"),
    [
        ("CCO ethanol", "", "train_file must hold a SMILES string a line, without ' ', got 'CCO ethanol'"),
        ("CCO\nC[MASK]", "", "train_file must hold a SMILES string a line, without '[MASK]', got 'C[MASK]'"),
        ("CCO", "--vocab_size=300", "vocab_size must be left out with kind smiles, which has the tokens of its text"),
    ],
)
def test_what_is_no_smiles_is_refused(
    text: str, flags: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text(text)
    files = ["--train_file", str(tmp_path / "a.txt"), "--output_dir", str(tmp_path / "out")]
    assert main(["tokenizer", "--kind=smiles", *files, *flags.split()]) == 2
    assert capsys.readouterr().err.startswith(problem) and not list(tmp_path.glob("out/*"))
