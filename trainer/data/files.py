"""What a file of training text holds: text, or rows of a table, by the end of its name; compressed or not."""

from __future__ import annotations

import bz2
import codecs
import gzip
import logging
import lzma
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import IO, Any, cast

from token_diffusion.errors import ParameterError

from ..errors import in_one_line

TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".parquet": ("parquet", {}),
    ".arrow": ("arrow", {}),
}
"""End of a name -> the builder of `datasets` that reads it, with its options. All other files are text."""

COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
SIGNATURES = {
    b"\x1f\x8b": "a .gz file",
    b"BZh": "a .bz2 file",
    b"\xfd7zXZ\x00": "an .xz file",
    b"\x28\xb5\x2f\xfd": "a .zst file: zstd -d decompresses it",
    b"PK\x03\x04": "a .zip file: unzip takes the text out of it",
    b"PAR1": "a .parquet file",
    b"ARROW1": "an .arrow file",
    b"%PDF": "a PDF",
}
BROKEN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
CHUNK_CHARS = 1 << 15
BATCH_ROWS = 1000
PEEK_BYTES = 1 << 12


def is_table(path: Path) -> bool:
    """Whether the file holds rows, each a document, and no text."""
    return _kind(path) in TABLES


def _kind(path: Path) -> str:
    name = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return name.suffix.lower()


def read_chunks(flag: str, path: Path) -> Iterator[str]:
    """The text as it is, newlines included, some of it at a time. Raises `ParameterError` for what is missing or no UTF-8."""
    with _opened(flag, path) as file:
        while chunk := file.read(CHUNK_CHARS):
            yield chunk


def read_lines(flag: str, path: Path) -> Iterator[str]:
    """The lines without their ends. Raises as `read_chunks` does.

    Only \\n, \\r and \\r\\n end a line: `str.splitlines` also cuts at form feeds, U+2028, ….
    """
    with _opened(flag, path) as file:
        for line in file:
            yield line.rstrip("\r\n")


@contextmanager
def _opened(flag: str, path: Path) -> Iterator[TextIOWrapper]:
    """The file as text, and its errors in one line."""
    if path.is_dir():
        raise ParameterError(flag, "be a file; a folder of data goes to dataset_name", str(path))
    try:
        with _binary(path) as binary:
            buffered = cast(BufferedReader, binary)
            if (reason := _is_utf16(buffered.peek(PEEK_BYTES)[:PEEK_BYTES])) is not None:
                raise ParameterError(flag, f"be UTF-8 text ({_remedy(reason, path)})", str(path))
            with TextIOWrapper(buffered, encoding="utf-8-sig", newline="") as file:
                yield file
    except BROKEN as error:
        raise ParameterError(flag, f"be a whole {path.suffix} file ({in_one_line(error)})", str(path)) from error
    except OSError as error:
        raise ParameterError(
            flag, f"be a readable file ({error.strerror or in_one_line(error)})", str(path)
        ) from error
    except UnicodeDecodeError as error:
        place, reason = _complaint(path)
        raise ParameterError(flag, f"be UTF-8 text (byte {place} is not: {reason})", str(path)) from error


def _binary(path: Path) -> IO[bytes]:
    opened: IO[bytes] = COMPRESSED.get(path.suffix.lower(), open)(path, "rb")
    return opened if isinstance(opened, BufferedReader | gzip.GzipFile) else BufferedReader(cast(Any, opened))


def _complaint(path: Path) -> tuple[int, str]:
    """The first byte that is no UTF-8, and what the file looks like instead."""
    with _binary(path) as file:
        start = file.read(PEEK_BYTES)
        decoder, place, chunk = codecs.getincrementaldecoder("utf-8")(), 0, start
        while chunk:
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                place += error.start - pending
                break
            place += len(chunk)
            chunk = file.read(1 << 16)
    for signature, what in SIGNATURES.items():
        if start.startswith(signature):
            return place, f"it looks like {what}"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return place, _remedy("UTF-16", path)
    around = chunk[max(place % (1 << 16) - 100, 0) :][:PEEK_BYTES] if chunk else start
    odd = sum(byte < 32 and byte not in b"\t\n\r\f\v" for byte in around)
    return place, "it looks like no text at all" if odd > len(around) // 20 else _remedy("LATIN1", path)


def _is_utf16(start: bytes) -> str | None:
    """UTF-16 without a mark is valid UTF-8 with a NUL beside each letter of the first 256."""
    for name, zeros, letters in (("UTF-16LE", start[1::2], start[::2]), ("UTF-16BE", start[::2], start[1::2])):
        if zeros and zeros.count(0) > len(zeros) // 2 and letters.count(0) <= len(letters) // 10:
            return name
    return None


def _remedy(encoding: str, path: Path) -> str:
    shown = {"LATIN1": "Latin-1"}.get(encoding, encoding)
    return f"it looks like {shown}: iconv -f {encoding} -t UTF-8 {path.name} makes UTF-8 of it"


def read_cells(flag: str, path: Path, column: str) -> Iterator[str]:
    """The text column of a table, "" where a row has none. Raises `ParameterError` for what cannot be read as such a table."""
    from datasets import load_dataset

    quiet()
    builder, options = TABLES[_kind(path)]
    if builder == "csv":
        # What a cell holds is text, also where it looks like a number or like pandas' words for nothing (NA, null).
        options = {**options, "converters": {column: str}}
    if not path.is_file():
        raise ParameterError(flag, "be a file" if path.exists() else "be a readable file (there is none)", str(path))
    try:
        rows = load_dataset(builder, data_files=escape(str(path)), split="train", streaming=True, **options)
        first = next(iter(rows.take(1)), None)
        if first is None:
            raise ParameterError(flag, "hold text, and not be empty", str(path))
        check_column(column, first)
        yield from table_cells(rows, column)
    except (ParameterError, GeneratorExit):
        raise
    except (
        Exception
    ) as error:  # pyarrow, pandas and `datasets` each raise what they like for a file that is not theirs
        rule = f"be a readable {''.join(path.suffixes)} file ({in_one_line(error)})"
        raise ParameterError(flag, rule, str(path)) from error


def table_cells(rows: Any, column: str) -> Iterator[str]:
    """The text column of rows of `datasets`, "" where one has none. Raises `ParameterError` if it holds no text."""
    for table in rows.select_columns([column]).with_format("arrow").iter(BATCH_ROWS):
        for cell in table[column].to_pylist():
            yield as_text(cell, column)


def check_column(column: str, columns: Sequence[str] | dict[str, Any]) -> None:
    """Raises `ParameterError` that names the columns that are there."""
    if column not in columns:
        names = ", ".join(name if len(name) <= 40 else f"{name[:40]}…" for name in columns)
        raise ParameterError("text_column", f"be one of the columns {names}", column)


def as_text(cell: object, column: str) -> str:
    """What a cell of the text column holds, "" for none. Raises `ParameterError` if that is no text."""
    if cell is not None and not isinstance(cell, str):
        raise ParameterError("text_column", f"hold text, and not {type(cell).__name__}", column)
    return cell or ""


def quiet() -> None:
    """No bars of `datasets` where nobody looks at them; its own error lines say again what ours say."""
    from datasets import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
