"""Checkpoint formats that others have published, a file each: how a folder is recognised, and what is known of it.

No code of a folder is run: its config.json and the names of its weights say what it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import ParameterError, in_short
from ..weights.files import weight_names
from . import a2d, bert_chat, dream, llada, refused
from .dit import bd3lm, duo, gidd, mdlm, sedd, udlm
from .published import ROLES, Published, Tokens

__all__ = ["FAMILIES", "ROLES", "Published", "Tokens", "published"]

FAMILIES = {
    "mdlm": mdlm.read,
    "udlm": udlm.read,
    "duo": duo.read,
    "bd3lm": bd3lm.read,
    "gidd": gidd.read,
    "sedd": sedd.read,
    "llada": llada.read,
    "dream": dream.read,
    "a2d": a2d.read,
}
"""By the format's name, what reads a config.json and the names of weights as that."""

OF_A_FOLDER = {"diffugpt or diffullama": a2d.read_diffu, "bert-chat": bert_chat.read}
"""The same of formats whose config.json is that of an ordinary network, for which what else is in the folder counts as well. A
folder with a scheduler says itself what it is."""

SCHEDULER_FILE = "scheduler_config.json"

DEPTH = re.compile(r"n(um)?_(\w+_)?(layers?|blocks)")
"""How many layers there are, as a config.json may call it."""

SHALLOW = 1000
"""So many are built in a moment, whatever they are."""


def published(folder: Path, parameter: str = "checkpoint_path") -> Published | None:
    """What is known of a folder of one of these formats; None for any other.

    Raises:
        ParameterError: one of them, but of a kind that is not run here, or a key of its config.json is missing or wrong; or a
            format that is not run here at all, or that code in the folder alone describes; or any, of more layers than weights.
    """
    if not (folder / "config.json").is_file():
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # whoever reads the folder says what is wrong with it
    if not isinstance(config, dict) or not isinstance(config.get("model_type", ""), str):
        return None
    if (reason := refused.reason(config)) is not None:
        raise ParameterError(parameter, f"hold a model that is run here ({reason})", str(folder))
    names = weight_names(folder)
    _check_depth(config, names, folder, parameter)
    apart = {} if (folder / SCHEDULER_FILE).is_file() else OF_A_FOLDER
    readers: dict[str, Callable[..., Published | None]] = dict(FAMILIES)
    readers |= {name: partial(read, folder=folder) for name, read in apart.items()}
    for name, read in readers.items():
        try:
            known = read(config, names)
        except ParameterError as error:
            raise ParameterError(parameter, f"hold a {name} model that is run here ({error})", str(folder)) from error
        except Exception as error:  # a key is missing, or whatever transformers raises for a wrong value
            what = f"no {error}" if isinstance(error, KeyError) else in_short(error)
            raise ParameterError(parameter, f"hold the config.json of a {name} model ({what})", str(folder)) from error
        if known is not None:
            return known
    if (code := refused.unknown_code(config)) is not None:
        raise ParameterError(parameter, f"hold a model that is known here ({code})", str(folder))
    return None


def _check_depth(config: Mapping[str, Any], names: Collection[str], folder: Path, parameter: str) -> None:
    """Before any is built: a network of a billion layers would take the machine's memory to find out that it is none."""
    most = max(len(names), SHALLOW)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key, value in part.items():
            if isinstance(value, int) and value > most and DEPTH.fullmatch(key):
                rule = f"hold a network of at most {most} layers, as it has {len(names)} weights ({key} says more)"
                raise ParameterError(parameter, rule, str(folder))
