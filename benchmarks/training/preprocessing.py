"""What the trainer takes to tokenise text before it trains, beside the tokenizer itself: time, and memory at its peak.

    python -m benchmarks preprocessing [--quick]
    python -m benchmarks preprocessing --train_file book.txt --tokenizer_name tokenizer

The tokenizer alone is its own `encode_batch` of the text's lines, half a million characters at a time, and no id is kept.
Ours is all from file to sequences, as `python -m trainer` has it before the first step: lines that are examples, and
the whole file as one document (--packing); in a new cache each time. Sides take turns in one process; a ratio is the median
over the rounds. Peak memory has a process of its own for each side: what is resident, imports and all.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from unittest.mock import patch

from transformers import AutoTokenizer

from trainer.data.corpus import read_documents
from trainer.data.reading.files import read_lines
from trainer.data.sequences import tokenize
from trainer.data.tokenizer import build_tokenizer
from trainer.data.tokens import BATCH_CHARS

from ..figures import median
from ..report import Section, Table

MAX_LENGTH = 256
NUM_WORDS = 30_000
WORDS_A_LINE = 12
COLUMNS = ["side", "seconds", "characters/s", "side / tokenizer", "peak MB"]

NOTE = """From a text file to the sequences to train on, nothing in the cache. Tokenizer: the library's `encode_batch` of the
same lines alone. MB: resident at the peak in a process of its own; the first row has what the imports take."""


@dataclass(frozen=True)
class Bench:
    """A text and a tokenizer."""

    text: Path
    tokenizer: Path

    def alone(self) -> None:
        """The tokenizer, and what it takes to hand it the lines."""
        backend = AutoTokenizer.from_pretrained(self.tokenizer).backend_tokenizer
        for lines in batches(read_lines("train_file", self.text)):
            backend.encode_batch(lines, add_special_tokens=False)

    def ours(self, packing: bool) -> None:
        """All that the trainer does."""
        tokenizer = AutoTokenizer.from_pretrained(self.tokenizer)
        with TemporaryDirectory(prefix="token-diffusion-") as cache, patch("datasets.config.HF_DATASETS_CACHE", cache):
            documents = read_documents("train_file", [self.text], packing)
            made = tokenize(tokenizer, documents, flag="train_file", packing=packing, max_length=MAX_LENGTH)
            assert made.fingerprint

    def sides(self) -> dict[str, Callable[[], None]]:
        return {
            "tokenizer": self.alone,
            "ours, lines": partial(self.ours, False),
            "ours, --packing": partial(self.ours, True),
        }


def batches(lines: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    num_chars = 0
    for line in lines:
        batch.append(line)
        num_chars += len(line)
        if num_chars >= BATCH_CHARS:
            yield batch
            batch, num_chars = [], 0
    yield batch


def write_text(path: Path, num_chars: int) -> None:
    """Random words, few of them often, in lines."""
    chosen = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(chosen.choices(letters, k=chosen.randint(2, 9))) for _ in range(NUM_WORDS)]
    weights = [1 / rank for rank in range(1, NUM_WORDS + 1)]
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < num_chars:
            lines = chosen.choices(words, weights, k=1000 * WORDS_A_LINE)
            starts = range(0, len(lines), WORDS_A_LINE)
            written += file.write("".join(" ".join(lines[i : i + WORDS_A_LINE]) + ".\n" for i in starts))


def peak_mb(side: Callable[[], None]) -> float:
    """MB that are resident at the peak of a process that does this (Linux)."""
    side()
    return _resident_mb("VmHWM")


def imports_mb() -> float:
    return _resident_mb("VmRSS")


def _resident_mb(name: str) -> float:
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--train_file", type=Path, help="text to tokenise; random words without it")
    parser.add_argument(
        "--tokenizer_name", type=Path, help="folder of a tokenizer; byte-level BPE of the text without it"
    )
    parser.add_argument("--characters", type=int, default=60_000_000, help="of the random words")
    parser.add_argument("--vocab_size", type=int, default=4096, help="of the tokenizer that is made")
    parser.add_argument("--rounds", type=int, default=3, help="each side is timed this often, in turn")


def section(arguments: argparse.Namespace) -> Section:
    """A row a side."""
    found = Section("preprocessing", "Training: text to tokens", [NOTE])
    with TemporaryDirectory(prefix="token-diffusion-") as folder:
        text = arguments.train_file or Path(folder) / "text.txt"
        if arguments.train_file is None:
            write_text(text, 3_000_000 if arguments.quick else arguments.characters)
        tokenizer = arguments.tokenizer_name or Path(folder) / "tokenizer"
        if arguments.tokenizer_name is None:
            sample = text.open(encoding="utf-8").read(1_000_000)
            build_tokenizer([sample], arguments.vocab_size).save_pretrained(tokenizer)
        bench = Bench(text, tokenizer)
        memory = peaks(bench)
        seconds = measure(bench, 1 if arguments.quick else arguments.rounds)
        num_chars = text.stat().st_size
    table = Table(COLUMNS)
    table.add("imports", "-", "-", "-", memory.pop("imports"))
    for side, times in seconds.items():
        ratio = median([a / b for a, b in zip(times, seconds["tokenizer"], strict=True)])
        table.add(side, median(times), num_chars / median(times), ratio, memory[side])
    found.parts += [f"**{num_chars / 1e6:.1f} MB of text**", table]
    return found


def measure(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """side -> seconds of each round."""
    seconds: dict[str, list[float]] = {name: [] for name in bench.sides()}
    for _ in range(rounds):
        for name, side in bench.sides().items():
            start = perf_counter()
            side()
            seconds[name].append(perf_counter() - start)
    return seconds


def peaks(bench: Bench) -> dict[str, float]:
    """side -> MB, each in a fresh process, and what the imports alone take."""
    tasks: dict[str, Callable[[], float]] = {"imports": imports_mb}
    tasks |= {name: partial(peak_mb, side) for name, side in bench.sides().items()}
    found = {}
    for name, task in tasks.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            found[name] = process.submit(task).result()
    return found
