"""What molecules are worth that a model wrote as SMILES: whether they are valid, differ from each other, and are known already.

    python -m token_diffusion sample --checkpoint_path molecules --num_samples 1024 --seq_len 32 --json > samples.json
    python -m benchmarks.results.qm9.molecules samples.json --known_file qm9.tsv

It takes RDKit (`pip install '.[molecules]'`). Of N samples n are valid, d of these are different, and k of those are not known:

    validity n / N,    uniqueness d / n,    novelty k / d

as in arXiv:2412.10193, but that molecules are compared in RDKit's canonical SMILES. Its authors compare the strings that were
written, so that a known molecule written otherwise is a new one; and their novelty is k / n.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from token_diffusion.errors import ParameterError
from trainer.evaluation.bound import Estimate

from ... import command
from ..estimates import mean, share

PROGRAM = "benchmarks.results.qm9.molecules"


def qed(smiles: str) -> float:
    """How like a drug a valid molecule is, in [0, 1] (Bickerton et al. 2012)."""
    from rdkit.Chem import QED

    return float(QED.qed(_parsed(smiles)))


def rings(smiles: str) -> int:
    """How many rings a valid molecule has: those of the symmetrised smallest set."""
    return len(chemistry().GetSymmSSSR(_parsed(smiles)))


PROPERTIES: dict[str, Callable[[str], float]] = {"qed": qed, "rings": rings}
"""Of a molecule, by the column of qm9.tsv that has it."""


@dataclass(frozen=True)
class Molecules:
    """Samples: how many there were, and the canonical SMILES of each valid one; `known` are those that are not new."""

    num_samples: int
    valid: list[str]
    known: Collection[str]

    @property
    def novel(self) -> list[str]:
        """The different ones that are not known."""
        return sorted(set(self.valid) - set(self.known))

    @property
    def validity(self) -> Estimate:
        return share(len(self.valid), self.num_samples)

    @property
    def uniqueness(self) -> Estimate:
        """Its error is the jackknife's: without one sample d is one less where that molecule was written once, else the same."""
        counts = Counter(self.valid)
        once = share(sum(count == 1 for count in counts.values()), len(self.valid))
        return Estimate(share(len(counts), len(self.valid)).value, once.error)

    @property
    def novelty(self) -> Estimate:
        return share(len(self.novel), len(set(self.valid)))

    def mean(self, name: str) -> Estimate:
        """Of the novel molecules' property, one of `PROPERTIES`; NaN where there is none."""
        return mean([PROPERTIES[name](smiles) for smiles in self.novel])

    def figures(self) -> dict[str, Any]:
        """As JSON has them."""
        found: dict[str, Any] = {"num_samples": self.num_samples, "num_valid": len(self.valid)}
        found |= {"num_unique": len(set(self.valid)), "num_novel": len(self.novel)}
        for name in ("validity", "uniqueness", "novelty"):
            found |= getattr(self, name).figures(name)
        for name in PROPERTIES:
            found |= self.mean(name).figures(f"mean_{name}_of_novel")
        return found


def judged(samples: Sequence[str], known: Collection[str]) -> Molecules:
    """What SMILES strings are worth. `known` holds canonical ones. Raises `ParameterError` without RDKit."""
    written = (canonical(smiles) for smiles in samples)
    return Molecules(len(samples), [smiles for smiles in written if smiles is not None], known)


def canonical(smiles: str) -> str | None:
    """RDKit's canonical SMILES; None for what is no molecule, an empty string among it."""
    molecule = chemistry().MolFromSmiles(smiles) if smiles else None
    return None if molecule is None else str(chemistry().MolToSmiles(molecule))


def known_molecules(path: Path) -> frozenset[str]:
    """The canonical SMILES of a table's column `smiles` (tab-separated), or of a file with one a line.

    Raises `ParameterError` for a file that cannot be read as one of these.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError("known_file", f"be a readable text file ({error})", str(path)) from error
    columns = lines[0].split("\t") if lines else []
    if "smiles" in columns:
        lines = [row["smiles"] for row in csv.DictReader(lines, delimiter="\t")]
    found = {smiles: canonical(smiles) for smiles in lines if smiles}
    wrong = next((smiles for smiles, molecule in found.items() if molecule is None), None)
    if wrong is not None or not found:
        raise ParameterError("known_file", "hold molecules as SMILES", wrong)
    return frozenset(molecule for molecule in found.values() if molecule is not None)


def chemistry() -> Any:
    """RDKit's `Chem`, which says nothing of strings that are no molecules. Raises `ParameterError` without RDKit."""
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise ParameterError("rdkit", "be installed: pip install '.[molecules]'", None) from error
    rdBase.DisableLog("rdApp.*")
    return Chem


def _parsed(smiles: str) -> Any:
    return chemistry().MolFromSmiles(smiles)


def main(arguments: Sequence[str]) -> int:
    parser = command.make_parser(PROGRAM, __doc__)
    parser.add_argument("samples", type=Path, help="what `token_diffusion sample --json` printed")
    parser.add_argument("--known_file", type=Path, required=True, help="molecules that are not new")
    asked = parser.parse_args(arguments)
    try:
        samples = [sample["text"] for sample in json.loads(asked.samples.read_text("utf-8"))["samples"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError("samples", "be a file that `sample --json` printed", str(asked.samples)) from error
    print(json.dumps(judged(samples, known_molecules(asked.known_file)).figures(), indent=2))
    return 0


if __name__ == "__main__":
    command.run(PROGRAM, main)
