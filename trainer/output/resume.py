"""The training state beside a checkpoint's model: written with it, read to go on, refused where the run would differ."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from token_diffusion.errors import ParameterError

from ..config import TrainingConfig

FACTS, TENSORS = "training_state.json", "training_state.pt"
COUNTED = {"lr_warmup_steps", "max_train_steps"}  # what epochs and the share of warm-up come to
# With these the learning rate of a step does not depend on how many steps there will be.
ENDLESS_SCHEDULES = ("constant", "constant_with_warmup", "inverse_sqrt")


@dataclass(frozen=True)
class RunFacts:
    """What identifies a run, and how far it has come; stored as JSON.

    `flags` are the command line's, `data` a fingerprint of the training text, `positions` where each process is in a
    streamed text (None where it is stored), `best` the best validation so far, `chosen_on` a fingerprint of the text of those
    validations if they have a say in the weights.
    """

    process: str
    num_processes: int
    flags: dict[str, Any]
    data: str
    step: int
    num_tokens: int
    meter: dict[str, float]
    positions: list[Any]
    best: dict[str, Any] = field(default_factory=dict)
    chosen_on: str | None = None


def write_state(folder: Path, facts: RunFacts, tensors: dict[str, Any]) -> None:
    """Both files of the state, into a checkpoint's folder."""
    torch.save(tensors, folder / TENSORS)
    (folder / FACTS).write_text(json.dumps(asdict(facts), indent=2) + "\n", encoding="utf-8")


def read_facts(folder: Path) -> RunFacts:
    """Raises `ParameterError` if the folder has no readable state."""
    try:
        return RunFacts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        rule = f"be a checkpoint with a readable {FACTS} ({type(error).__name__})"
        raise ParameterError("resume_from_checkpoint", rule, str(folder)) from error


def read_tensors(folder: Path) -> dict[str, Any]:
    """Tensors and plain values only: nothing in the file is run. Raises `ParameterError` if it cannot be read."""
    try:
        return torch.load(folder / TENSORS, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes for a broken file
        rule = f"be a checkpoint with a readable {TENSORS} ({type(error).__name__})"
        raise ParameterError("resume_from_checkpoint", rule, str(folder)) from error


def flags_of(config: TrainingConfig) -> dict[str, Any]:
    """The flags in types that JSON gives back unchanged."""
    return config.model_dump(mode="json")


def check_same_run(facts: RunFacts, config: TrainingConfig, num_processes: int, folder: Path) -> None:
    """Raises `ParameterError` that names the first thing with which the rest of the run would differ from its start.

    Steps that are still to be counted are left to `check_same_steps`.
    """
    where = f"as in the run that wrote {folder.name}"
    if facts.process != config.process:
        raise ParameterError("the process", f"be {facts.process} {where}", config.process)
    if facts.num_processes != num_processes:
        raise ParameterError("num_processes", f"be {facts.num_processes} {where}", num_processes)
    now, known = flags_of(config), type(config).model_fields
    for name, value in now.items():
        before = facts.flags.get(name, known[name].get_default(call_default_factory=True))
        if name not in config.free_on_resume | COUNTED and before != value:
            raise ParameterError(name, f"be {before!r} {where}", value)
    if not config.counts_epochs:
        check_same_steps(facts, config, folder)


def check_same_steps(facts: RunFacts, config: TrainingConfig, folder: Path) -> None:
    """Raises `ParameterError` if the learning rate would be another at some step, or there are fewer steps than done."""
    for name in sorted(COUNTED - ({"max_train_steps"} if config.lr_scheduler in ENDLESS_SCHEDULES else set())):
        before, now = facts.flags[name], getattr(config, name)
        if before != now:
            raise ParameterError(name, f"be {before!r} as in the run that wrote {folder.name}", now)
    if config.max_train_steps < facts.step:
        raise ParameterError("max_train_steps", f"be at least {facts.step}, the steps done", config.max_train_steps)


def check_same_data(facts: RunFacts, config: TrainingConfig, data: str, chosen_on: str | None, folder: Path) -> None:
    """Raises `ParameterError` if the text is no longer the same, token by token."""
    if facts.data != data:
        name = "train_file" if config.dataset_name is None else "dataset_name"
        value = [path.name for path in config.train_file] if config.dataset_name is None else config.dataset_name
        raise ParameterError(name, f"hold the same text as in the run that wrote {folder.name}", value)
    if facts.chosen_on != chosen_on:
        files = [path.name for path in config.validation_file]
        rule = f"hold the same text as in the run that wrote {folder.name}, which it has a say in"
        raise ParameterError("validation_file", rule, files)


def random_state() -> dict[str, Any]:
    """The states of this process's global generators, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    state["numpy"] = (str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest)
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """What `random_state` gave."""
    torch.set_rng_state(state["torch"])
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
