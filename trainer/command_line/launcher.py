"""What `accelerate launch` was asked for, by its own flags or its config file: followed as our flag would be, or refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeVar

from .settings import CommandLine, refuse

Settings = TypeVar("Settings", bound=CommandLine)
Value = str | int | bool

FOLLOWED = {
    "mixed_precision": "ACCELERATE_MIXED_PRECISION",
    "gradient_accumulation_steps": "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
    "torch_compile": "ACCELERATE_DYNAMO_BACKEND",
}
"""Our flags that the launcher has a setting for, too, and the variable in which that comes."""

NOT_FOLLOWED = {
    "dynamo_mode": "ACCELERATE_DYNAMO_MODE",
    "dynamo_use_fullgraph": "ACCELERATE_DYNAMO_USE_FULLGRAPH",
    "dynamo_use_dynamic": "ACCELERATE_DYNAMO_USE_DYNAMIC",
    "dynamo_use_regional_compilation": "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION",
    "use_megatron_lm": "ACCELERATE_USE_MEGATRON_LM",
    "use_parallelism_config": "ACCELERATE_USE_PARALLELISM_CONFIG",
}
"""Settings of it that this trainer's steps and checkpoints do not know."""

UNASKED = ("", "no", "none", "false", "0", "default")


def launched(config: Settings, environment: Mapping[str, str] = os.environ) -> tuple[Settings, list[str]]:
    """The settings with what the launcher was asked for, and the flags that say the same without it.

    Raises:
        ParameterError: a flag says otherwise than the launcher, or nobody here follows what that was asked for.
    """
    fields = type(config).model_fields
    if "mixed_precision" not in fields:
        return config, []  # a command that runs no network
    unknown = {} if "torch_compile" in fields else {"dynamo_backend": FOLLOWED["torch_compile"]}
    for setting, variable in {**NOT_FOLLOWED, **unknown}.items():
        if (text := environment.get(variable, "")).lower() not in UNASKED:
            refuse(setting, "be left out of accelerate launch and its config file", text)
    asked: dict[str, Value] = {}
    for name, variable in FOLLOWED.items():
        value = _value(name, environment.get(variable, "").lower())
        if value is None or name not in fields:
            continue  # evaluate accumulates no gradients
        if name not in config.model_fields_set:
            asked[name] = value
        elif getattr(config, name) != value:
            refuse(name, f"be left out, or {value!r} as accelerate launch was asked for", getattr(config, name))
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in asked.items()]
    return config.model_copy(update=asked), flags


def _value(name: str, text: str) -> Value | None:
    """What the launcher's words mean for the flag; None if nothing was asked for. Raises `ParameterError`."""
    if text in UNASKED:
        return None
    if name == "mixed_precision" and text not in ("fp16", "bf16"):
        refuse(name, "be no, fp16 or bf16 in accelerate launch and its config file", text)
    if name == "torch_compile" and text != "inductor":
        refuse("dynamo_backend", "be no or inductor in accelerate launch and its config file", text)
    if name != "gradient_accumulation_steps":
        return text == "inductor" or text
    if not text.isdecimal():
        refuse(name, "be a number in accelerate launch and its config file", text)
    return int(text)
