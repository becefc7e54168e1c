"""The card of a converted folder: what it was converted from, what is known of it, and how it loads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load
from transformers import PreTrainedModel

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..facts import Facts
from ..networks.masked_lm import block_size, max_positions, num_classes, time_input
from ..networks.weights.hub import repository

COMMIT = re.compile(r"[0-9a-f]{40}")
CARRIED = ("license", "license_name", "license_link", "language")
"""What is as true of the copy as of the original."""

TEXT = """# {name}

{source}, in the layout of Token Diffusion, as `python -m token_diffusion convert` writes it: {weights},
and nothing was trained. Scheduler, frame and tokenizer are in files of their own, so that nobody need know the original.

{table}

## How it loads

```python
import token_diffusion  # whose network it may be
from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained("{name}")
tokenizer = AutoTokenizer.from_pretrained("{name}")
scheduler = token_diffusion.TokenDiffusionScheduler.from_pretrained("{name}")
```

```sh
python -m token_diffusion {command} --checkpoint_path {name}
python -m server --checkpoint_path {name}
```
"""


@dataclass(frozen=True)
class Origin:
    """What was converted.

    place: as the user named it. folder: where its files are. family: its published format, if it is of one.
    base: of adapters the model that they were merged into, as it was named, and its folder. rounded: whether the weights are
    of a coarser type than they were.
    """

    place: str
    folder: Path
    family: str | None = None
    base: tuple[str, Path] | None = None
    rounded: bool = False

    def weights(self, dtype: str) -> str:
        """In words, what became of them."""
        if self.base is not None:
            return f"the weights are those of the two together, in {dtype}"
        return (
            f"the weights are rounded to {dtype}" if self.rounded else f"the weights are the same numbers, in {dtype}"
        )

    @property
    def text(self) -> str:
        """In words, without a path of this machine."""
        kind = "a checkpoint" if self.family is None else f"a checkpoint of the {self.family} format"
        if self.base is not None:
            kind = f"adapters, merged into {_named(*self.base)}"
        return f"{_named(self.place, self.folder)}, {kind}"

    @property
    def metadata(self) -> dict[str, Any]:
        """For the card's head: ids on the hub are told, and what the original's card says of its licence and language."""
        source = repository(self.place if self.base is None else self.base[0], bare=True)
        known = {"tags": ["token-diffusion", *([self.family] if self.family else [])], "library_name": "transformers"}
        return known | ({"base_model": source[0]} if source else {}) | _carried(self.folder)


def card(origin: Origin, name: str, model: PreTrainedModel, scheduler: TokenDiffusionScheduler, facts: Facts) -> str:
    """The text of README.md for the folder that is called `name`."""
    body = TEXT.format(
        name=name,
        source=origin.text,
        weights=origin.weights(str(model.dtype).removeprefix("torch.")),
        table=_table(_figures(model, scheduler, facts)),
        command=_command(model, scheduler),
    )
    return f"---\n{ModelCardData(**origin.metadata).to_yaml()}\n---\n\n{body}"


def _command(model: PreTrainedModel, scheduler: TokenDiffusionScheduler) -> str:
    """The shell's that samples from it."""
    if block_size(model):
        return "sample-block"
    return "sample-hybrid" if scheduler.config.forward_process == "hybrid" else "sample"


def _named(place: str, folder: Path) -> str:
    """A repository and its commit, or the last name of a path."""
    if (found := repository(place, bare=True)) is None:
        return f"`{folder.resolve().name}`"
    return f"`{found[0]}`" + (f" (commit `{folder.name}`)" if COMMIT.fullmatch(folder.name) else "")


def _figures(model: PreTrainedModel, scheduler: TokenDiffusionScheduler, facts: Facts) -> dict[str, Any]:
    config = scheduler.config
    has_schedule = hasattr(scheduler.process, "schedule")
    frame = facts.frame
    return {
        "network": type(model).__name__,
        "parameters": f"{model.num_parameters():,}",
        "process": config.forward_process,
        "schedule": config.alpha_schedule
        if has_schedule
        else f"p_uniform {config.p_uniform:g}, gamma {config.gamma:g}",
        "time input": time_input(model),
        "vocabulary": f"{config.vocab_size}, the mask being {config.mask_token_id}",
        "positions": max_positions(model) or "unbounded",
        "block size": block_size(model) or "none: all positions see all",
        "labels": num_classes(model) or "none",
        "frame": f"{list(frame.prefix)} … {list(frame.suffix)}" if frame else "none",
        "control tokens that are learnt": sorted(facts.learnt) or "none",
    }


def _table(figures: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures.items())])


def _carried(folder: Path) -> dict[str, Any]:
    """What the original's card says of its licence and language, if it has one that can be read."""
    try:
        said = metadata_load(folder / "README.md") or {}
    except Exception:  # a card of somebody else's making may be anything
        return {}
    return {name: said[name] for name in CARRIED if isinstance(said.get(name), (str, list))}
