"""Train, measure, and write what came out into one page.

    python -m benchmarks.results --data DATA                       every table at the size that fits into minutes, printed
    python -m benchmarks.results --data DATA --size full qm9       one table as it is published
    … --output docs/results.md                                     puts them into that page, the others stay

Each part's module says what it trains and measures. What a part has made is kept under `--work`, so that the same command
again goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import ROOT
from ..report import Section
from . import qm9
from .data import Data
from .run import Run

PARTS: dict[str, Callable[[Run], Section]] = {"qm9": qm9.section}
"""What a part measures: name on the page and in the shell, and its work."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without any")
    parser.add_argument("--data", type=Path, required=True, help="folder with the texts and molecules")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "results", help="where what is made is kept")
    parser.add_argument("--output", type=Path, help="page that the sections are put into; printed without")
    asked = parser.parse_args(arguments)
    for name in asked.parts or PARTS:
        run = Run(Data(asked.data.resolve()), asked.work.resolve() / asked.size, asked.size)
        start = time.perf_counter()
        section = PARTS[name](run)
        print(section.markdown(f"{time.perf_counter() - start:.0f} s"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
