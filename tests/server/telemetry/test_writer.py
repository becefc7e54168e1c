"""A log that nobody reads, or that has no place, holds up nobody."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys

import pytest

from server.telemetry import logs
from server.telemetry.writer import WAITING, Writer
from tests.live_server import wait_until

SENT = 3 * WAITING


def say(writer: Writer, *messages: str) -> None:
    for message in messages:
        writer.handle(logging.LogRecord("x", logging.INFO, __file__, 1, message, None, None))


def test_who_logs_into_a_pipe_that_is_not_read_does_not_wait_and_the_lost_are_counted() -> None:
    reading, writing = os.pipe()
    writer = Writer(writing)
    say(writer, *(f"{number} {'x' * 200}" for number in range(SENT)))
    writer.flush()  # comes back, though nothing is read
    os.set_blocking(reading, False)
    found = b""

    def numbers(pattern: bytes) -> list[int]:
        return [int(number) for number in re.findall(pattern, found, re.MULTILINE)]

    def all_told() -> bool:
        nonlocal found
        with contextlib.suppress(BlockingIOError):
            found += os.read(reading, 1 << 16)
        return len(numbers(rb"^(\d+) x{200}$")) + sum(numbers(rb"^(\d+) messages were lost")) == SENT

    wait_until(all_told)
    written = numbers(rb"^(\d+) x{200}$")
    assert WAITING <= len(written) < SENT and written == list(range(len(written)))
    os.close(reading)


def test_a_disk_that_is_full_loses_messages_until_it_has_room(tmp_path: os.PathLike[str]) -> None:
    place = os.open("/dev/full", os.O_WRONLY)
    writer = Writer(place)
    say(writer, "one", "two")
    writer.flush()
    log = os.open(os.path.join(tmp_path, "log"), os.O_RDWR | os.O_CREAT)
    os.dup2(log, place)
    say(writer, "three")
    writer.flush()
    assert os.pread(log, 1000, 0) == b"three\n2 messages were lost, as they could not be written\n"


def test_a_process_without_stderr_has_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert isinstance(logs._stderr(), logging.NullHandler)
