"""What files hold, by the end of their names: text or rows, compressed or not; and in one line what is wrong with them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter

from token_diffusion.errors import ParameterError
from trainer.data.reading import files
from trainer.data.reading.documents import read_pieces
from trainer.data.reading.files import read_cells, read_chunks, read_lines
from trainer.data.streaming import size_of

ROWS = ["one, two", 'say "no"\nand go', "NA", "123", "café 猫", "null", ""]


def write_arrow(path: Path, data: Dataset) -> None:
    with ArrowWriter(path=str(path)) as writer:
        writer.write_table(data.data.table)
        writer.finalize()


def table(path: Path, column: str = "text") -> Path:
    """The rows as the end of the name says."""
    data = Dataset.from_dict({"id": list(range(len(ROWS))), column: ROWS})
    writers: dict[str, Callable[[Path], object]] = {
        ".csv": data.to_csv,
        ".tsv": lambda path: data.to_csv(path, sep="\t"),
        ".jsonl": data.to_json,
        ".ndjson": data.to_json,
        ".json": lambda path: path.write_text(json.dumps(data.to_list(), indent=2)),
        ".parquet": data.to_parquet,
        ".arrow": lambda path: write_arrow(path, data),
    }
    writers[path.suffix](path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow"])
def test_a_table_gives_back_its_text(suffix: str, tmp_path: Path) -> None:
    """What looks like a number, or like pandas' words for nothing, is text; odd names are names."""
    path = table(tmp_path / f"a, [b]*{suffix}", "words")
    assert list(read_cells("train_file", path, "words")) == ROWS
    with pytest.raises(ParameterError, match="text_column must be one of the columns id, words, got 'text'"):
        list(read_cells("train_file", path, "text"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize(("end", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_compressed_tables_and_texts(suffix: str, end: str, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    plain = table(tmp_path / f"a{suffix}")
    packed = tmp_path / f"a{suffix}{end}"
    packed.write_bytes(pack(plain.read_bytes()))
    assert list(read_cells("train_file", packed, "text")) == ROWS
    text = tmp_path / f"a.txt{end}"
    text.write_bytes(pack("eins\r\nzwei ä\n".encode()))
    assert list(read_lines("train_file", text)) == ["eins", "zwei ä"]
    assert "".join(read_chunks("train_file", text)) == "eins\r\nzwei ä\n"


def test_rows_without_text_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": null}\n{"other": 1}\n{"text": "  "}\n{"text": "b"}\n')
    assert list(read_cells("train_file", path, "text")) == ["a", "", "", "  ", "b"]
    assert [piece.text for piece in read_pieces("train_file", [(0, path)], packing=False)] == ["a", "b"]


def test_cells_of_any_length_and_lines_in_cells(tmp_path: Path) -> None:
    long = "word " * 100_000
    Dataset.from_dict({"text": [long, "a\n\nb"]}).to_csv(tmp_path / "a.csv")
    assert list(read_cells("train_file", tmp_path / "a.csv", "text")) == [long, "a\n\nb"]
    Dataset.from_dict({"text": [long, "a\n\nb"]}).to_json(tmp_path / "a.jsonl")
    assert list(read_cells("train_file", tmp_path / "a.jsonl", "text")) == [long, "a\n\nb"]


def test_a_large_table_is_read_in_batches(tmp_path: Path) -> None:
    rows = [f"row {i}" for i in range(2 * files.BATCH_ROWS + 7)]
    Dataset.from_dict({"text": rows}).to_parquet(tmp_path / "a.parquet")
    assert list(read_cells("train_file", tmp_path / "a.parquet", "text")) == rows


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "train_file must be a readable .jsonl file (line 2: "),
        ("a.jsonl", b'"a"\n', "train_file must be a readable .jsonl file (line 1 is no object but str)"),
        (
            "a.jsonl",
            b'{"text": "a\\ud83d"}\n',
            "train_file must be a readable .jsonl file (line 1 has half a surrogate",
        ),
        ("a.json", b"no json", "train_file must be a readable .json file (line 1: "),
        ("a.json", b"[1, 2", "train_file must be a readable .json file"),
        ("a.json", b'["a", "b"]', "train_file must be a readable .json file (row 1 is no object but str)"),
        ("a.json", b'{"data": [{"text": "a"}]}', "text_column must be one of the columns data, got 'text'"),
        ("a.jsonl", b'{"text": 1}\n', "text_column must hold text, and not int"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "train_file must be UTF-8 text (it looks like UTF-16: iconv"),
        ("a.jsonl.gz", b"no gzip", "train_file must be a whole .gz file"),
        ("a.parquet", b"PAR1 no", "train_file must be a readable .parquet file"),
        ("a.arrow", b"ARROW1 no", "train_file must be a readable .arrow file"),
        ("a.csv", b"caf\xe9,text\n1,2\n", "train_file must be UTF-8 text (byte 3 is not: it looks like Latin-1"),
        ("a.csv", b'id,text\n1,"a\n', "train_file must be a readable .csv file (unexpected end of data)"),
        (
            "a.csv",
            b"text\nwell\noh, no\n",
            "train_file must be a readable .csv file (line 3 has 2 cells, the first 1)",
        ),
        ("a.csv", b"", "train_file must hold text, and not be empty"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000, "train_file must be a readable .jsonl file (maximum recursion"),
        ("a.csv", b"id,text\n", "train_file must hold text"),
    ],
)
def test_broken_tables_are_one_line(
    name: str, content: bytes, rule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ParameterError) as caught:
        list(read_pieces("train_file", [(0, tmp_path / name)], packing=True))
    assert str(caught.value).startswith(rule) and "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""
    with pytest.raises(ParameterError, match="readable file"):
        list(read_pieces("train_file", [(0, tmp_path / f"absent-{name}")], packing=True))


def zipped(path: Path) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.txt", "text " * 100)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "looks_like"),
    [
        ("naïve text\n".encode("utf-16"), r"UTF-16: iconv -f UTF-16 -t UTF-8 a.txt"),
        ("naïve text\n".encode("utf-16-le"), r"iconv -f UTF-16LE -t UTF-8 a.txt"),
        ("plain text\n".encode("utf-16-be"), r"iconv -f UTF-16BE -t UTF-8 a.txt"),
        (b"a" * 300_000 + "café".encode("latin-1"), r"byte 300003 .* Latin-1: iconv -f LATIN1 -t UTF-8 a.txt"),
        (b"\xef\xbb\xbfcaf\xe9", r"byte 6 .* Latin-1"),
        (b"half a letter: " * 999 + b"\xe2\x82", r"byte 14985 is not: the file ends within a character"),
        (gzip.compress(b"text" * 99, mtime=0), r"it looks like a \.gz file"),
        (lzma.compress(b"text" * 99), r"it looks like an \.xz file"),
        (b"\x28\xb5\x2f\xfd\x04\x00\x41\x99\xff", r"it looks like a \.zst file"),
        (bytes(range(256)) * 9, r"it looks like no text at all"),
    ],
)
def test_what_is_no_utf8_is_told_apart(content: bytes, looks_like: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    for read in (read_lines, read_chunks):
        with pytest.raises(ParameterError, match=f"train_file must be UTF-8 text .*{looks_like}"):
            list(read("train_file", path))


def test_a_zip_and_a_parquet_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(zipped(tmp_path / "a.zip"))
    with pytest.raises(ParameterError, match=r"looks like a \.zip file"):
        list(read_lines("train_file", path))
    path.write_bytes(table(tmp_path / "a.parquet").read_bytes())
    with pytest.raises(ParameterError, match=r"looks like a \.parquet file"):
        list(read_lines("train_file", path))


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_broken_bytes_of_a_table_are_one_line(suffix: str, tmp_path: Path) -> None:
    """Whatever part of the file they are in, and whichever kind of error its library has for that."""
    path = tmp_path / f"a{suffix}"
    writers = {".parquet": Dataset.to_parquet, ".arrow": lambda data, path: write_arrow(path, data)}
    writers[suffix](Dataset.from_dict({"text": [f"row {i}" for i in range(2000)]}), path)
    whole, kinds = path.read_bytes(), set()
    for start in range(0, len(whole), len(whole) // 16):
        for broken in (whole[:start], whole[:start] + b"\xff" * 99 + whole[start + 99 :]):
            path.write_bytes(broken)
            try:
                list(read_cells("train_file", path, "text"))
            except ParameterError as error:
                assert "\n" not in str(error)
                kinds.add(type(error.__cause__))
    assert OSError in kinds


def test_arrow_files_that_are_no_streams(tmp_path: Path) -> None:
    """pyarrow's own default, and Feather's."""
    table = pyarrow.table({"id": range(len(ROWS)), "text": pyarrow.array(ROWS).dictionary_encode()})
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert list(read_cells("train_file", tmp_path / "a.arrow", "text")) == ROWS
    with pytest.raises(ParameterError, match="text_column must be one of the columns id, text, got 'words'"):
        list(read_cells("train_file", tmp_path / "a.arrow", "words"))


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.parquet", "a.arrow"])
def test_a_pipe_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    """Text is read more than once: `--train_file <(zstdcat a.zst)` would train on nothing, or wait for ever."""
    os.mkfifo(tmp_path / name)
    rule = "train_file must be a file that stays, as it is read more than once; no pipe"
    with pytest.raises(ParameterError, match=rule):
        next(read_pieces("train_file", [(0, tmp_path / name)], packing=True))
    with pytest.raises(ParameterError, match=rule):
        size_of("train_file", tmp_path / name)


def test_a_cut_off_download_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(bytes(range(65, 91)) * 99)[:-9])
    with pytest.raises(ParameterError, match=r"train_file must be a whole \.gz file"):
        list(read_lines("train_file", path))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="train_file must be a file; a folder of data goes to dataset_name"):
        list(read_lines("train_file", tmp_path))
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(ParameterError, match="train_file must be a file"):
        list(read_cells("train_file", tmp_path / "a.csv", "text"))


def test_nul_bytes_are_characters(tmp_path: Path) -> None:
    """Names that `find -print0` lists are no UTF-16."""
    (tmp_path / "a.txt").write_bytes(b"one\0two\0three\n\0")
    assert list(read_lines("train_file", tmp_path / "a.txt")) == ["one\0two\0three", "\0"]


def test_only_line_ends_end_lines(tmp_path: Path) -> None:
    """Form feeds and Unicode's own separators are characters of a line."""
    (tmp_path / "a.txt").write_bytes("\ufeffa b\u2028c d\nx\x0cy\rz\x85\r\n\x1c\n \n\ve".encode())
    assert list(read_lines("train_file", tmp_path / "a.txt")) == [
        "a b\u2028c d",
        "x\x0cy",
        "z\x85",
        "\x1c",
        " ",
        "\ve",
    ]
