"""What is known of one folder of a published format, from its config.json, which is checked, and the names of its weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ...diffusion.values import check_number
from ...errors import ParameterError

Tokens = tuple[str | int, ...]
"""Control tokens, each by its id, by the tokenizer's role for it (`ROLES`), or as it is spelt: a spelling that the tokenizer
does not have stands for no token."""

ROLES = ("bos", "eos", "cls", "sep", "pad")


@dataclass(frozen=True)
class Published:
    """How a folder that others have published is run here.

    family: the format, for people to read; nothing is decided by it.
    config: of the network that runs it, one of ours or of transformers.
    weights: its weights by that network's names, from those by the authors'. Views, and copies of what is small alone: a model of
        gigabytes is not to be there twice. A name that it does not know stays as it is, and is reported.
    scheduler: options of `TokenDiffusionScheduler`; the mask token is the tokenizer's where they do not name it.
    prefix, suffix: the frame of every sequence. learnt: control tokens that may be in a sample. ends: those of them that end a
        text; None: EOS and SEP.
    tokenizer: the hub's name of the one that belongs to it, where the authors' folder holds none.
    tokenizer_class: what reads the folder's own where its config names code of the folder.
    tokenizer_size: how many ids the right one has, a mask that is added not counted; None where that is not known.
    mask_token: how the mask is spelt, or which of the tokenizer's ids it is, if that does not say which of its tokens it is.
    """

    family: str
    config: PreTrainedConfig
    weights: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    prefix: Tokens = ()
    suffix: Tokens = ()
    learnt: Tokens = ()
    ends: Tokens | None = None
    tokenizer: str | None = None
    tokenizer_class: type[PreTrainedTokenizerBase] | None = None
    tokenizer_size: int | None = None
    mask_token: str | int = "[MASK]"


Keys = Mapping[str, tuple[Any, list[Any]]]
"""By a key of config.json what its value is where it is not there, and the values that are run, the usual one first."""


def check_architecture(config: Mapping[str, Any], name: str) -> None:
    """Raises `ParameterError` where the model is of another class than `name`."""
    found = config.get("architectures") or [name]
    if not isinstance(found, list) or name not in found:
        raise ParameterError("architectures", f"be {name}", found)


def check_run(config: Mapping[str, Any], run: Keys) -> None:
    """Raises `ParameterError` for a value that is none of those that are run."""
    for key, (default, values) in run.items():
        if (value := config.get(key, default)) not in values:
            raise ParameterError(key, f"be {values[0]!r}", value)


def check_positive(config: Mapping[str, Any], *keys: str) -> None:
    """Raises `ParameterError` for what is no finite number above 0."""
    for key in keys:
        check_number(key, config[key])
        if config[key] <= 0:
            raise ParameterError(key, "be a positive number", config[key])


def tokenizer_says(folder: Path, key: str) -> Any:
    """What a folder's tokenizer_config.json has under a key; None where it has nothing, or cannot be read."""
    try:
        return json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get(key)
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
