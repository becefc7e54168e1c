"""A folder is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..diffusion.scheduler import TokenDiffusionScheduler
from ..facts import Facts


class Saved(Protocol):
    """What writes weights into a folder: a model, or adapters of one."""

    def save_pretrained(self, folder: Any, state_dict: Any = None) -> Any: ...


def save_checkpoint(
    folder: str | os.PathLike[str],
    model: PreTrainedModel | Saved,
    tokenizer: PreTrainedTokenizerBase,
    scheduler: TokenDiffusionScheduler,
    *,
    facts: Facts | None = None,
    card: str | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
    write_more: Callable[[Path], None] | None = None,
    max_shard_size: str | None = None,
) -> None:
    """Writes the folder whole or not at all: beside its place first, then renamed; what was there before is replaced.

    Args:
        facts: what is known of the training sequences; without it the folder says nothing of them.
        card: the text of its README.md.
        state_dict: the weights to save; without it those that `model` holds.
        write_more: adds files to the folder that it is given, before that gets its name.
        max_shard_size: of a file of weights, `5GB` for one; without it transformers decides.
    """
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    sizes: dict[str, Any] = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    try:
        model.save_pretrained(fresh, state_dict=None if state_dict is None else dict(state_dict), **sizes)
        for how_it_was_loaded in ("is_local", "local_files_only"):
            tokenizer.init_kwargs.pop(how_it_was_loaded, None)
        tokenizer.save_pretrained(fresh)
        scheduler.save_pretrained(fresh)
        if facts is not None:
            facts.write(fresh)
        if card is not None:
            (fresh / "README.md").write_text(card, encoding="utf-8")
        if write_more is not None:
            write_more(fresh)
        for file in filter(Path.is_file, fresh.rglob("*")):
            file.chmod(0o644)  # safetensors writes for the owner alone, but whoever serves may be another user
            with file.open("rb") as opened:
                os.fsync(opened.fileno())  # a name must not outlive a power cut that its contents did not
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
