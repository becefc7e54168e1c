"""The folders of a run in its output_dir: checkpoint-N/, of which each is complete or absent, and final/."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from token_diffusion.errors import ParameterError

from ..config import TrainingConfig

LATEST, FINAL = "latest", "final"
LEFTOVER = re.compile(r"\.(checkpoint-\d+|final)\.(new|old)")
MEGABYTE = 1e6


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step}"


def saved_steps(output_dir: Path) -> list[int]:
    """The steps of the checkpoints that are there, rising."""
    found = (re.fullmatch(r"checkpoint-(\d+)", path.name) for path in output_dir.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def find_checkpoint(config: TrainingConfig) -> Path | None:
    """The checkpoint to resume from; None starts anew.

    Raises:
        ParameterError: there is no such folder, or `output_dir` holds another run's work.
    """
    output_dir, asked = config.output_dir, config.resume_from_checkpoint
    steps = saved_steps(output_dir)
    if asked == LATEST and steps:
        return output_dir / checkpoint_name(steps[-1])
    if asked == LATEST:
        asked = None  # a new run
    if asked is not None and not Path(asked).is_dir():
        raise ParameterError("resume_from_checkpoint", f"be {LATEST} or an existing folder", asked)
    if asked is not None and Path(asked).resolve().parent == output_dir.resolve():
        return Path(asked)
    if (steps or (output_dir / FINAL).exists()) and not config.overwrite_output_dir:
        rule = "hold no other run (see --resume_from_checkpoint latest, --overwrite_output_dir)"
        raise ParameterError("output_dir", rule, str(output_dir))
    return None if asked is None else Path(asked)


def tidy(output_dir: Path) -> None:
    """Removes what a killed run left half done; a folder whose replacement never came is put back."""
    for path in output_dir.iterdir():
        match = LEFTOVER.fullmatch(path.name)
        if match is None:
            continue
        place = output_dir / match[1]
        if match[2] == "old" and not place.exists():
            path.rename(place)
        else:
            shutil.rmtree(path)


def delete_run(output_dir: Path) -> None:
    """Removes all checkpoints and final/."""
    for name in [*map(checkpoint_name, saved_steps(output_dir)), FINAL]:
        _delete(output_dir / name)


def prune(output_dir: Path, limit: int | None, best: int | None = None) -> None:
    """Removes the oldest checkpoints beyond `limit`, but not that of step `best`; None keeps all."""
    if limit is not None:
        for step in saved_steps(output_dir)[:-limit]:
            if step != best:
                _delete(output_dir / checkpoint_name(step))


def _delete(folder: Path) -> None:
    """Under another name first, so that no half-deleted folder has the name of a whole one."""
    if folder.exists():
        condemned = folder.with_name(f".{folder.name}.new")
        folder.rename(condemned)
        shutil.rmtree(condemned)


def set_dtype(folder: Path, dtype: str) -> None:
    """Has config.json name the type of the weights that were saved, where it is not the model's."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("dtype") != dtype:
        path.write_text(json.dumps({**config, "dtype": dtype}, indent=2) + "\n", encoding="utf-8")


def check_space(config: TrainingConfig, num_bytes: int, first_step: int) -> None:
    """Proves that the checkpoints of a run fit on its disk; `num_bytes` is what one takes. Raises `ParameterError`."""
    there = len(saved_steps(config.output_dir))
    every, last = config.checkpointing_steps, config.max_train_steps
    coming = last // every - first_step // every + (first_step < last and last % every > 0)
    if config.checkpoints_total_limit is not None:
        # The oldest goes only when the new one is complete.
        coming = min(coming, max(config.checkpoints_total_limit + 1 + config.load_best_model_at_end - there, 1))
    needed = (coming + 1) * num_bytes  # and final/
    free = shutil.disk_usage(config.output_dir).free
    if needed > free:
        rule = (
            f"have {needed / MEGABYTE:.0f} MB free for {coming} checkpoints and {FINAL} of {num_bytes / MEGABYTE:.0f} MB "
            f"each, and not {free / MEGABYTE:.0f} MB (see --checkpoints_total_limit, --checkpointing_steps)"
        )
        raise ParameterError("output_dir", rule, str(config.output_dir))
