"""How the log is written: a line a message, for people (text) or for machines (JSON).

A record may carry `extra={"fields": {...}}`, told as name=value or as members of the object. What `context` holds is told
with every message of the request that is being answered.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from transformers.utils import logging as transformers_logging

from .writer import Writer

Format = Literal["text", "json"]

context: ContextVar[Mapping[str, str]] = ContextVar("context", default={})  # noqa: B039 - a Mapping: nobody writes to it
"""Names of the request that is being answered: its id, its trace."""

SPELLED = {code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)]} | {
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
"""Control characters, as they are shown: nothing in a line may move a terminal's cursor or begin another line."""

SPELLED_IN_TRACEBACKS = {code: shown for code, shown in SPELLED.items() if chr(code) not in "\n\t"}


def configure(level: str, format: Format) -> None:
    """All messages of this process, those of libraries and of warnings too, go to stderr in one format."""
    handler = _stderr()
    handler.setFormatter(JSONFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
    transformers_logging.disable_default_handler()
    transformers_logging.enable_propagation()
    for client in ("httpx", "httpx2"):  # of a hub: a line for each of its requests is for who looks for a fault
        logging.getLogger(client).setLevel(logging.WARNING if level != "debug" else logging.DEBUG)


def _stderr() -> logging.Handler:
    try:
        return Writer(sys.stderr.fileno())
    except AttributeError:  # None, in a process that was started without one
        return logging.NullHandler()
    except io.UnsupportedOperation:  # no file: who put it there has it in memory
        return logging.StreamHandler()


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What a record says besides its message."""
    return {**getattr(record, "fields", {}), **context.get()}


class TextFormatter(logging.Formatter):
    """`time LEVEL logger: message name=value ...`, and a traceback below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        parts = [
            super().formatMessage(record),
            *(f"{name}={_value(value)}" for name, value in fields_of(record).items()),
        ]
        return " ".join(parts).translate(SPELLED)

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).translate(SPELLED_IN_TRACEBACKS)


class JSONFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, what `fields_of` finds, and `exception`, the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        return json.dumps(entry, default=str)


def _value(value: object) -> str:
    """As it is if that cannot be misread, else in quotes."""
    text = str(value)
    plain = text.isascii() and text.isprintable() and text and not set(text) & set(' "=')
    return text if plain else json.dumps(text)
