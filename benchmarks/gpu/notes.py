"""What a measurement notes, and under what it is made: written as it is found, so that what is cut off has said what it could."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from token_diffusion.errors import in_short

BACKENDS = ("torch", "compile")


@dataclass(frozen=True)
class Setting:
    """quick: fewer rounds. seconds: after which nothing more is begun. On a CPU all is tiny: it shows that it runs."""

    device: str
    quick: bool
    seconds: float
    start: float

    @property
    def tiny(self) -> bool:
        return not self.device.startswith("cuda")

    @property
    def where(self) -> torch.device:
        return torch.device(self.device)

    @property
    def is_over(self) -> bool:
        return time.time() - self.start > self.seconds

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Of the weights, `tf32` standing for float32 whose products are tf32."""
        return ("float32",) if self.tiny else ("bfloat16", "float32", "tf32")

    def text(self) -> str:
        return json.dumps(asdict(self))


class Notes:
    """Lines of JSON in a file: rows of tables by their titles, sentences, what must not have been found, what did not run."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def row(self, table: str, **cells: Any) -> None:
        """One row, a cell a column; the first one of a table says its columns."""
        self._write({"table": table, "row": cells})

    def say(self, sentence: str) -> None:
        self._write({"say": sentence})

    def fail(self, failure: str) -> None:
        self._write({"failure": failure})

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """In here an exception is noted as a failure, with where it came from; what comes after goes on."""
        try:
            yield
        except Exception as error:  # whatever a driver, a compiler or a library raises
            lines = traceback.format_exc().splitlines()
            self._write({"failure": f"{what}: {type(error).__name__}: {in_short(error)}", "traceback": lines[-12:]})

    def read(self) -> list[dict[str, Any]]:
        """All that was noted; a last line that was cut off is left out."""
        found = []
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def _write(self, note: dict[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")


@contextmanager
def products(dtype: str) -> Iterator[str]:
    """In here float32's products are full ones, or tf32; gives the type of the weights."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield "float32" if dtype == "tf32" else dtype
    finally:
        torch.set_float32_matmul_precision(before)


def peak_mb(device: torch.device) -> float:
    """MB (2^20 bytes) of the device that were allocated at most since `torch.cuda.reset_peak_memory_stats`; NaN on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else float("nan")


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
