"""The card of a converted folder: what it was converted from, what is known of it, and how it loads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load
from transformers import PreTrainedModel

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..facts import Facts
from ..networks.hub import repository
from ..networks.masked_lm import block_size, max_positions, num_classes, time_input

COMMIT = re.compile(r"[0-9a-f]{40}")
CARRIED = ("license", "license_name", "license_link", "language")
"""What is as true of the copy as of the original."""

TEXT = """# {name}

{source}, in the layout of Token Diffusion, as `python -m token_diffusion convert` writes it: the weights are the same numbers, in
{dtype}, and nothing was trained. Scheduler, frame and tokenizer are in files of their own, so that nobody need know the original.

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


def card(
    place: str,
    folder: Path,
    name: str,
    family: str | None,
    model: PreTrainedModel,
    scheduler: TokenDiffusionScheduler,
    facts: Facts,
) -> str:
    """The text of README.md.

    Args:
        place: what the user called the original, of which `folder` holds the files. name: of the new folder.
    """
    found = repository(place)
    kind = "a checkpoint" if family is None else f"a checkpoint of the {family} format"
    commit = f", commit `{folder.name}`" if found and COMMIT.fullmatch(folder.name) else ""
    source = f"`{found[0] if found else folder.resolve().name}`{commit}, {kind}"
    known: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["token-diffusion", *([family] if family else [])],
    }
    known |= {"base_model": found[0]} if found else {}
    process = scheduler.config.forward_process
    body = TEXT.format(
        name=name,
        source=source,
        dtype=str(model.dtype).removeprefix("torch."),
        table=_table(_figures(model, scheduler, facts)),
        command="sample-hybrid" if process == "hybrid" else "sample",
    )
    return f"---\n{ModelCardData(**known, **_carried(folder)).to_yaml()}\n---\n\n{body}"


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
