"""A scheduler's configuration: which keys and values it may hold, and how older ones read today."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import ParameterError
from .schedules import make_schedule
from .values import check_bool, check_int, check_number

FORWARD_PROCESSES = ("absorbing", "uniform", "hybrid")

CLASS_NAMES = ("TokenDiffusionScheduler", "BlockTokenDiffusionScheduler", "HybridTokenDiffusionScheduler")
"""`_class_name` in a configuration that can be read: ours, and the three that the seed's scripts wrote."""

WRITTEN_BY_DIFFUSERS = {"quantization_config", "auto_map"}
"""Beside the keys that begin with an underscore: what diffusers may add to any configuration, and reads itself."""


def check_keys(config: Mapping[str, Any], known: Collection[str], class_name: str) -> None:
    """Raises `ParameterError` for another scheduler's configuration, and for a key that would be silently without effect.

    Args:
        known: the scheduler's arguments. class_name: its own, beside `CLASS_NAMES`.
    """
    found = config.get("_class_name", class_name)
    if found not in (*CLASS_NAMES, class_name):
        raise ParameterError("_class_name", f"be one of {', '.join(CLASS_NAMES)}", found)
    for key, value in config.items():
        if key not in known and not key.startswith("_") and key not in WRITTEN_BY_DIFFUSERS:
            meant = difflib.get_close_matches(key, known, n=1)
            rule = "be a setting of the scheduler" + (f" ({meant[0]}?)" if meant else "")
            raise ParameterError(key, rule, value)


def check_values(config: Mapping[str, Any]) -> None:
    """Raises `ParameterError` for a value of the wrong type or outside its range, as `TokenDiffusionScheduler` has them."""
    check_int("vocab_size", config["vocab_size"], 2)
    check_int("mask_token_id", config["mask_token_id"], 0)
    if config["mask_token_id"] >= config["vocab_size"]:
        rule = f"be in [0, vocab_size = {config['vocab_size']})"
        raise ParameterError("mask_token_id", rule, config["mask_token_id"])
    if config["forward_process"] not in FORWARD_PROCESSES:
        raise ParameterError("forward_process", f"be one of {', '.join(FORWARD_PROCESSES)}", config["forward_process"])
    for name in ("eps", "sigma_min", "sigma_max", "p_uniform", "gamma", "t_eps"):
        check_number(name, config[name])
    check_bool("exclude_mask_from_uniform", config["exclude_mask_from_uniform"])
    check_int("num_train_timesteps", config["num_train_timesteps"], 1)
    if not 0 <= config["p_uniform"] < 1:
        raise ParameterError("p_uniform", "be in [0, 1)", config["p_uniform"])
    if not 0 < config["gamma"] <= 2:
        raise ParameterError("gamma", "be in (0, 2]", config["gamma"])
    if not 0 < config["t_eps"] < 0.5:
        raise ParameterError("t_eps", "be in (0, 0.5)", config["t_eps"])
    schedule = ("alpha_schedule", "eps", "sigma_min", "sigma_max")
    make_schedule(**{name: config[name] for name in schedule})


def modernise(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as the seed's scripts wrote it, in today's terms; one of ours passes unchanged.

    The hybrid process was a class of its own with no `forward_process`, and its default p_uniform was 0.
    """
    config = dict(config)
    if config.get("_class_name") == "HybridTokenDiffusionScheduler":
        config["forward_process"] = "hybrid"
        config.setdefault("p_uniform", 0.0)
        config.pop("clip_noise", None)
    return config
