"""Measure, and write what was measured into one page.

    python -m benchmarks                    everything but decoders (it needs a judge) and an hour's soak, into docs/benchmarks.md
    python -m benchmarks PART [...]         one part, printed; --output FILE puts it into that page, the others stay

`python -m benchmarks PART --help` lists a part's options; each part's module says what it measures and how.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from token_diffusion.networks.cpu.memory import prepare
from token_diffusion.networks.cpu.threads import set_threads

from . import ROOT, command
from .backends import part as backends
from .decoders import overhead
from .decoders import part as decoders
from .environment import provenance
from .gpu import part as gpu
from .network import memory, packing, padding, precision
from .page import frames
from .report import Section, write
from .sampling import determinism, pipeline, samplers
from .serving import abuse, crowded, neighbours, overload, server, soak
from .training import part as training
from .training import preprocessing

PAGE = ROOT / "docs" / "benchmarks.md"

PARTS: dict[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], Section]]] = {
    "samplers": (samplers.add_arguments, samplers.section),
    "decoders": (decoders.add_arguments, decoders.section),
    "overhead": (overhead.add_arguments, overhead.section),
    "pipeline": (pipeline.add_arguments, pipeline.section),
    "padding": (padding.add_arguments, padding.section),
    "packing": (packing.add_arguments, packing.section),
    "backends": (backends.add_arguments, backends.section),
    "memory": (memory.add_arguments, memory.section),
    "precision": (precision.add_arguments, precision.section),
    "preprocessing": (preprocessing.add_arguments, preprocessing.section),
    "training": (training.add_arguments, training.section),
    "server": (server.add_arguments, server.section),
    "neighbours": (neighbours.add_arguments, neighbours.section),
    "overload": (overload.add_arguments, overload.section),
    "determinism": (determinism.add_arguments, determinism.section),
    "abuse": (abuse.add_arguments, abuse.section),
    "page": (frames.add_arguments, frames.section),
    "crowded": (crowded.add_arguments, crowded.section),
    "gpu": (gpu.add_arguments, gpu.section),
    "soak": (soak.add_arguments, soak.section),
}


JUDGED = {"decoders"}
"""Parts that need what `benchmarks.decoders.judge` trains."""


def make_parser() -> argparse.ArgumentParser:
    parser = command.make_parser("benchmarks", __doc__)
    _add_common(parser)
    parts = parser.add_subparsers(dest="part", metavar="PART", title="parts")
    for name, (add_arguments, _) in PARTS.items():
        module = sys.modules[add_arguments.__module__]
        assert module.__doc__ is not None
        part = parts.add_parser(
            name,
            help=module.__doc__.partition("\n")[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_common(part, default=argparse.SUPPRESS)
        add_arguments(part)
    return parser


def _add_common(parser: argparse.ArgumentParser, default: object = None) -> None:
    def add(name: str, value: object, **options: object) -> None:
        parser.add_argument(name, default=value if default is None else default, **options)  # type: ignore[arg-type]

    add("--quick", False, action="store_true", help="minutes instead of a quarter of an hour, and figures to match")
    add("--device", "cpu", help="torch device: cpu, cuda, ...")
    add("--dtype", "float32", choices=["float32", "bfloat16", "float16"], help="type of the weights")
    add(
        "--num_threads",
        None,
        type=int,
        help="CPU threads of torch, here and in the servers; without it as many as the quota and the affinity mask leave",
    )
    add("--output", None, type=Path, help=f"the page to write into; {PAGE.relative_to(ROOT)} for all parts together")


def main(arguments: Sequence[str]) -> int:
    """0, or 1 if a part found something broken, or 2 if it cannot run as asked."""
    asked = make_parser().parse_args(arguments)
    disable_progress_bar()
    prepare()
    set_threads(asked.num_threads)
    output = asked.output or (None if asked.part else PAGE)
    failed = False
    for name in [asked.part] if asked.part else [name for name in PARTS if name not in JUDGED]:
        options = asked if asked.part else make_parser().parse_args([name, *arguments])
        failed |= not run(name, options, list(arguments), output)
    return int(failed)


def run(name: str, options: argparse.Namespace, arguments: list[str], output: Path | None) -> bool:
    """One part, measured, printed, and written if there is an `output`. False if it found something broken."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    start = time.perf_counter()
    found = PARTS[name][1](options)
    source = provenance(arguments, options.device, options.dtype, time.perf_counter() - start)
    text = found.markdown(source)
    print(text, flush=True)
    if output is not None:
        write(output, name, text)
    return not found.failures


if __name__ == "__main__":
    command.run("benchmarks", main)  # a folder or a device that cannot be used
