"""What the card of the molecules demo has beside what the trainer writes: what it draws, what that is worth, whose molecules.

    python -m benchmarks.results.qm9.card examples/molecules --known_file qm9/qm9.tsv

It draws the samples itself, as `token_diffusion sample` does, first-hitting, at temperature 1, and takes RDKit to judge them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from token_diffusion import TokenDiffusionPipeline

from ... import command
from ...report import Table
from ..block import put, quoted
from .molecules import Molecules, canonical, judged, known_molecules
from .notes import EVERY
from .part import LENGTH, SHARES, shares

PROGRAM = "benchmarks.results.qm9.card"
SHOWN = 20
HEAD = {"license": "apache-2.0", "pipeline_tag": "text-generation"}

TERMS = """The molecules are QM9's: R. Ramakrishnan, P. O. Dral, M. Rupp, O. A. von Lilienfeld, *Quantum chemistry structures and
properties of 134 kilo molecules*, Scientific Data 1, 140022 (2014). They were taken from the package
[qm9pack](https://pypi.org/project/qm9pack/) 1.0.3 by Raghunathan Ramakrishnan, which is under the MIT licence, its data included;
those that failed the authors' consistency check were left out, and each was written as RDKit's canonical SMILES, once. The
weights and this card are given under Apache-2.0, as the repository is."""


def block(texts: Sequence[str], known: Collection[str]) -> str:
    """The samples as they came, figures of all of them, and the licence."""
    return "\n\n".join([samples(texts, known), figures(judged(texts, known)), f"## Molecules and licence\n\n{TERMS}"])


def samples(texts: Sequence[str], known: Collection[str]) -> str:
    """The first ones, each with what RDKit says of it."""
    lines = [f"{text:<{LENGTH}}{verdict(text, known)}".rstrip() for text in texts[:SHOWN]]
    typed = f"--seq_len {LENGTH} --num_samples {len(texts)} --num_inference_steps none"
    return "\n\n".join(
        [
            f"## What it writes\n\nNot chosen: the first {len(lines)} of seed 0, first-hitting, temperature 1.",
            f"```\npython -m token_diffusion sample --checkpoint_path THIS_FOLDER {typed}\n```",
            quoted("\n".join(lines)),
        ]
    )


def verdict(text: str, known: Collection[str]) -> str:
    molecule = canonical(text)
    if molecule is None:
        return "no molecule"
    return "in QM9" if molecule in known else "a molecule that is not in QM9"


def figures(found: Molecules) -> str:
    """Of all of them, with standard errors."""
    table = Table(["samples", *SHARES])
    table.add(f"{found.num_samples:,}", *shares(found))
    note = f"Valid is what RDKit can read; novel, what is not among the {len(found.known):,} of QM9, held-out ones too. {EVERY}"
    typed = f"python -m {PROGRAM} THIS_FOLDER --known_file qm9.tsv"
    return "\n\n".join(["## How many are molecules", table.markdown(), note, f"```\n{typed}\n```"])


def main(arguments: Sequence[str]) -> int:
    """Draws, judges, and writes the card."""
    parser = command.make_parser(PROGRAM, __doc__)
    parser.add_argument("checkpoint_path", type=Path)
    parser.add_argument("--known_file", type=Path, required=True, help="molecules that are not new")
    parser.add_argument("--num_samples", type=int, default=1024)
    asked = parser.parse_args(arguments)
    known = known_molecules(asked.known_file)
    pipe = TokenDiffusionPipeline.from_pretrained(str(asked.checkpoint_path))
    how = {"num_samples": asked.num_samples, "seq_len": LENGTH, "num_inference_steps": None, "seed": 0}
    put(asked.checkpoint_path, block(pipe(**how).texts, known), HEAD)
    return 0


if __name__ == "__main__":
    command.run(PROGRAM, main, (ValueError, OSError))
