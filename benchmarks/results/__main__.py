"""Train, measure, and write what came out into one page.

    python -m benchmarks.results --data DATA                       every table at the size that fits into minutes
    python -m benchmarks.results --data DATA --size full qm9       one table as it is published
    … --output docs/results.md                                     puts full ones into that page, the others there stay

Each part's module says what it trains and measures. What a part has made is kept under `--work`, so that the same command
again goes on where it was; a folder that is deleted there is made anew. Without `--output` the tables stand there, too, in
`small.md` or `full.md`. A part whose command fails does not keep the others from being made.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from token_diffusion.errors import ParameterError

from .. import ROOT, command
from ..report import Section, write
from . import ablations, scripts, wikitext
from .data import MD5, Data
from .english import part as english
from .provenance import provenance
from .qm9 import part as qm9
from .run import Failed, Run

PAGE = ROOT / "docs" / "results.md"

HEADER = """# Results

Written by `python -m benchmarks.results`; edit no figure by hand. Each section has the commands that it came of, and what they
took.
"""

PARTS: dict[str, Callable[[Run], Section]] = {
    "english": english.section,
    "wikitext": wikitext.section,
    "scripts": scripts.section,
    "qm9": qm9.section,
    "ablations": ablations.section,
    "recipe": ablations.recipe,
}
"""What a part measures: name on the page and in the shell, and its work."""


def make_parser() -> argparse.ArgumentParser:
    parser = command.make_parser("benchmarks.results", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without any")
    parser.add_argument("--data", type=Path, required=True, help="folder with the texts and molecules")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "results", help="where what is made is kept")
    parser.add_argument("--output", type=Path, help="page that the sections are put into")
    return parser


def check(asked: argparse.Namespace, data: Data) -> None:
    """Raises `ParameterError` for what cannot be made, before anything is."""
    for name in asked.parts:
        if name not in PARTS:
            raise ParameterError("PART", f"be one of {', '.join(PARTS)}", name)
    if asked.size == "small" and asked.output is not None and asked.output.resolve() == PAGE:
        raise ParameterError("output", f"be another page than {PAGE.relative_to(ROOT)}, which has full sizes", "small")
    if not asked.parts:
        data.files(*MD5)


def main(arguments: Sequence[str]) -> int:
    """0, or 1 if a command failed, or 2 for a flag or a file that cannot be used."""
    asked = make_parser().parse_args(arguments)
    data = Data(asked.data.resolve())
    try:
        check(asked, data)
    except ParameterError as error:
        print(f"python -m benchmarks.results: error: {error}", file=sys.stderr)
        return 2
    output = asked.output or asked.work / f"{asked.size}.md"
    failed = 0
    for name in asked.parts or PARTS:
        run = Run(data, asked.work.resolve() / asked.size, asked.size)
        try:
            section = PARTS[name](run)
        except (Failed, ParameterError) as error:
            print(f"python -m benchmarks.results: {name} failed: {error}", file=sys.stderr, flush=True)
            failed = max(failed, 1 if isinstance(error, Failed) else 2)
            continue
        told = section.markdown(provenance(run))
        print(told, flush=True)
        write(output, name, told, HEADER)
        failed = max(failed, int(bool(section.failures)))
    print(f"written into {output}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends what runs inside, too
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
