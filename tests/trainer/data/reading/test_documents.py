"""What a document is, what identifies documents, and where they are split."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from token_diffusion.errors import ParameterError
from trainer.data.reading.documents import Documents, Piece, read_pieces


def texts(*paths: Path, packing: bool) -> list[str]:
    files = list(enumerate(paths))
    return list(Documents(lambda: read_pieces("train_file", files, packing=packing)))


def test_lines_whole_files_and_rows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n\n  \n  two\n")
    (tmp_path / "b.txt").write_bytes("drei ä\n".encode())
    (tmp_path / "c.jsonl").write_text('{"text": "four\\n\\nlines"}\n{"text": null}\n{"text": " "}\n{"text": "five"}\n')
    paths = [tmp_path / name for name in ("a.txt", "c.jsonl", "b.txt")]
    assert texts(*paths, packing=False) == ["one", "  two", "four\n\nlines", "five", "drei ä"]
    assert texts(*paths, packing=True) == ["one\r\n\n  \n  two\n", "four\n\nlines", "five", "drei ä\n"]


def test_a_whole_file_comes_in_pieces(tmp_path: Path) -> None:
    text = "".join(f"line {i}\n" for i in range(20_000))
    (tmp_path / "a.txt").write_text(text)
    pieces = list(read_pieces("train_file", [(3, tmp_path / "a.txt")], packing=True))
    assert "".join(piece.text for piece in pieces) == text and len(pieces) > 3
    assert [(piece.document, piece.number) for piece in pieces] == [((3, 0), i) for i in range(len(pieces))]


@pytest.mark.parametrize("packing", [False, True])
def test_a_file_without_text_is_refused(packing: bool, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    (tmp_path / "blank.txt").write_text(" \n\n\t\n")
    with pytest.raises(ParameterError, match=r"train_file must hold text, and not be empty, got '.*blank.txt'"):
        texts(tmp_path / "a.txt", tmp_path / "blank.txt", packing=packing)


def test_other_documents_have_another_digest() -> None:
    """Wherever the same characters are divided, by a NUL or a length that stands in the text, too."""
    corpora = [["a\0b"], ["a", "b"], ["ab"], ["a\0", "b"], ["a", "\0b"], ["b", "a"], ["a"], ["a", "b\1\0\0\0\0\0\0\0"]]
    digests = [Documents.of(corpus).survey.digest for corpus in corpora]
    assert len(set(digests)) == len(corpora)
    pieces = [Piece("a", (0, 0)), Piece("\0b", (0, 0), 1)]
    assert Documents(lambda: pieces).survey == Documents.of(["a\0b"]).survey


def test_the_parts_are_the_whole() -> None:
    """Of the documents, or of the characters, with a document cut where it must be and its pieces wherever they lie."""
    pieces = [Piece("0123", (0, 0)), Piece("456789\n", (0, 0), 1), Piece("abc", (1, 0)), Piece("defgh\n", (1, 0), 1)]
    documents = Documents(lambda: pieces)
    assert documents.survey[1:] == (2, 20, None)
    for percent, expected in {
        25: (["0123456789\n", "abcd"], ["efgh\n"]),
        75: (["01234"], ["56789\n", "abcdefgh\n"]),
    }.items():
        assert tuple(map(list, documents.split(percent, "characters"))) == expected
    assert tuple(map(list, documents.split(50, "documents"))) == (["0123456789\n"], ["abcdefgh\n"])
    for unit in ("documents", "characters"):
        with pytest.raises(ParameterError, match="validation_split_percentage must leave text on both sides"):
            documents.split(1, unit)


def test_each_part_has_its_own_identity() -> None:
    documents = Documents.of([f"text {i}" for i in range(10)])
    parts = [*documents.split(20, "documents"), *documents.split(30, "documents"), *documents.split(20, "characters")]
    identities = [part.identity for part in [documents, *parts]]
    assert all(one != other for one, other in permutations(identities, 2))
    assert Documents.of([f"text {i}" for i in range(10)]).split(20, "documents")[1].identity == parts[1].identity
