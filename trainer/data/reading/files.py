"""What a file of training text holds: text, or rows of a table, by the end of its name; compressed or not."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import json
import logging
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import BufferedReader, StringIO, TextIOWrapper
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any, cast

import pyarrow
from pyarrow.parquet import ParquetFile

from token_diffusion.errors import ParameterError

from ...errors import in_one_line

COMPRESSED: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ARROW_FILE = b"ARROW1"
SIGNATURES = {
    b"\x1f\x8b": "a .gz file",
    b"BZh": "a .bz2 file",
    b"\xfd7zXZ\x00": "an .xz file",
    b"\x28\xb5\x2f\xfd": "a .zst file: zstd -d decompresses it",
    b"PK\x03\x04": "a .zip file: unzip takes the text out of it",
    b"PAR1": "a .parquet file",
    ARROW_FILE: "an .arrow file",
    b"%PDF": "a PDF",
}
BROKEN = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
NO_FOLDER = "be a file; a folder of data goes to dataset_name"
EMPTY = "hold text, and not be empty"
NO_PIPE = "be a file that stays, as it is read more than once; no pipe"
CHUNK_CHARS = 1 << 15
MAX_CELL_CHARS = 2**31 - 1
BATCH_ROWS = 1000
PEEK_BYTES = 1 << 12


def is_table(path: Path) -> bool:
    """Whether the file holds rows, each a document, and no text."""
    return kind(path) in TABLES


def kind(path: Path) -> str:
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
    check_file(flag, path)
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
        start = chunk = file.read(PEEK_BYTES)
        decoder, place = codecs.getincrementaldecoder("utf-8")(), 0
        while True:
            pending = decoder.getstate()[0]
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                place += error.start - len(pending)
                cut_off = not chunk and error.end - error.start > 1
                break
            place += len(chunk)
            chunk = file.read(1 << 16)
    for signature, what in SIGNATURES.items():
        if start.startswith(signature):
            return place, f"it looks like {what}"
    if cut_off:
        return place, "the file ends within a character"
    wrong = sum(byte < 32 and byte not in b"\t\n\r\f\v" for byte in start)
    return place, "it looks like no text at all" if wrong > len(start) // 20 else _remedy("LATIN1", path)


def _is_utf16(start: bytes) -> str | None:
    """UTF-16 says so in its first bytes, or it has a NUL beside each letter of the first 256, which is valid UTF-8."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    for name, zeros, letters in (("UTF-16LE", start[1::2], start[::2]), ("UTF-16BE", start[::2], start[1::2])):
        if zeros and zeros.count(0) > len(zeros) // 2 and letters.count(0) <= len(letters) // 10:
            return name
    return None


def _remedy(encoding: str, path: Path) -> str:
    shown = {"LATIN1": "Latin-1"}.get(encoding, encoding)
    return f"it looks like {shown}: iconv -f {encoding} -t UTF-8 {path.name} makes UTF-8 of it"


def read_cells(flag: str, path: Path, column: str) -> Iterator[str]:
    """The text column of a table, "" where a row has none. Raises `ParameterError` for what cannot be read as such a table."""
    read = TABLES[kind(path)]
    with readable(flag, path):
        for cell in read(flag, path, column):
            yield as_text(cell, column)


@contextmanager
def readable(flag: str, path: Path) -> Iterator[None]:
    """In here a table is read: what its kind's reader raises is one of our errors, that it cannot be read as such a table."""
    try:
        yield
    # pyarrow raises an OSError of its own for bytes that it can make nothing of, json a RecursionError for a thousand brackets.
    except (csv.Error, ValueError, pyarrow.ArrowException, OSError, RecursionError) as error:
        if isinstance(error, ParameterError):
            raise
        rule = f"be a readable {kind(path)} file ({in_one_line(error)})"
        raise ParameterError(flag, rule, str(path)) from error


def _delimited(flag: str, path: Path, column: str, delimiter: str) -> Iterator[str | None]:
    """Each cell is text, also where it looks like a number or a word for nothing (NA, null)."""
    csv.field_size_limit(MAX_CELL_CHARS)
    with _opened(flag, path) as file:
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        columns = next(rows, [])
        if not columns:
            raise ParameterError(flag, EMPTY, str(path))
        check_column(column, columns)
        index = columns.index(column)
        for row in rows:
            if len(row) > len(columns):
                raise ValueError(f"line {rows.line_num} has {len(row)} cells, the first {len(columns)}")
            yield row[index] if index < len(row) else None


def _json(flag: str, path: Path, column: str) -> Iterator[object]:
    """A list of objects, or an object a line."""
    seen: dict[str, None] = {}
    found = False
    for number, row in json_rows(flag, path):
        if not isinstance(row, dict):
            raise ValueError(f"{number} is no object but {type(row).__name__}")
        cell = row.get(column)
        if isinstance(cell, str) and not cell.isascii() and any("\ud800" <= letter <= "\udfff" for letter in cell):
            raise ValueError(f"{number} has half a surrogate pair in it")
        found = found or column in row
        seen |= dict.fromkeys(row) if not found else {}
        yield cell
    if seen and not found:
        check_column(column, seen)


def json_rows(flag: str, path: Path) -> Iterator[tuple[str, object]]:
    """What a list or the lines hold, each with its number in words."""
    with _opened(flag, path) as file:
        start = file.read(PEEK_BYTES)
        lines = chain(StringIO(start + file.readline(), newline=""), file)
        if start.lstrip().startswith("["):
            rows = json.loads("".join(lines))
            yield from ((f"row {index + 1}", row) for index, row in enumerate(rows))
            return
        for index, line in enumerate(lines):
            if line.strip():
                try:
                    yield f"line {index + 1}", json.loads(line)
                except ValueError as error:
                    raise ValueError(f"line {index + 1}: {error}") from error


def _parquet(flag: str, path: Path, column: str) -> Iterator[object]:
    check_file(flag, path)
    with ParquetFile(path) as file:
        check_column(column, file.schema_arrow.names)
        for batch in file.iter_batches(BATCH_ROWS, columns=[column]):
            yield from batch.column(0).to_pylist()


def _arrow(flag: str, path: Path, column: str) -> Iterator[object]:
    """A stream, as `datasets` writes it, or a file, as pyarrow and Feather do."""
    check_file(flag, path)
    with pyarrow.memory_map(str(path)) as source:
        for batch in arrow_batches(source):
            check_column(column, batch.schema.names)
            cells = batch.column(batch.schema.names.index(column))
            cells.validate(full=True)  # broken bytes may say that a cell lies anywhere in memory
            for start in range(0, len(cells), BATCH_ROWS):
                yield from cells[start : start + BATCH_ROWS].to_pylist()


def arrow_batches(source: Any) -> Iterator[Any]:
    """The batches of an open .arrow file, of either kind."""
    is_file = source.read(len(ARROW_FILE)) == ARROW_FILE
    source.seek(0)
    if not is_file:
        return iter(pyarrow.ipc.open_stream(source))
    reader = pyarrow.ipc.open_file(source)
    return map(reader.get_batch, range(reader.num_record_batches))


def check_file(flag: str, path: Path) -> None:
    """Raises `ParameterError` for what is no file, or cannot be read. A pipe is not opened: that would wait for its other end."""
    if path.is_dir():
        raise ParameterError(flag, NO_FOLDER, str(path))
    try:
        if not S_ISREG(path.stat().st_mode):
            raise ParameterError(flag, NO_PIPE, str(path))
        path.open("rb").close()
    except OSError as error:
        raise ParameterError(flag, f"be a readable file ({error.strerror})", str(path)) from error


TABLES: dict[str, Callable[[str, Path, str], Iterator[object]]] = {
    ".csv": partial(_delimited, delimiter=","),
    ".tsv": partial(_delimited, delimiter="\t"),
    ".json": _json,
    ".jsonl": _json,
    ".ndjson": _json,
    ".parquet": _parquet,
    ".arrow": _arrow,
}
"""End of a name -> what reads the column of such a file. All other files are text."""


def table_cells(rows: Any, column: str) -> Iterator[str]:
    """The text column of rows of `datasets`, "" where one has none. Raises `ParameterError` if it holds no text."""
    for table in rows.select_columns([column]).with_format("arrow").iter(BATCH_ROWS):
        for cell in table[column].to_pylist():
            yield as_text(cell, column)


def check_column(column: str, columns: Sequence[str] | dict[str, Any], flag: str = "text_column") -> None:
    """Raises `ParameterError` that names the columns that are there."""
    if column not in columns:
        names = ", ".join(name if len(name) <= 40 else f"{name[:40]}…" for name in columns)
        raise ParameterError(flag, f"be one of the columns {names}", column)


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
