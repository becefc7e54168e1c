"""Checkpoint formats that others have published, a file each: how a folder is recognised, and what is known of it.

No code of a folder is run: its config.json and the names of its weights say what it is.
"""

from __future__ import annotations

import json
from pathlib import Path

from ...errors import ParameterError, in_short
from ..files import weight_names
from . import bd3lm, dream, duo, gidd, llada, mdlm, refused, sedd, udlm
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
}
"""By the format's name, what reads a config.json and the names of weights as that."""


def published(folder: Path, parameter: str = "checkpoint_path") -> Published | None:
    """What is known of a folder of one of these formats; None for any other.

    Raises:
        ParameterError: one of them, but of a kind that is not run here, or a key of its config.json is missing or wrong; or a
            format that is not run here at all, or that code in the folder alone describes.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # whoever reads the folder says what is wrong with it
    if not isinstance(config, dict):
        return None
    if (reason := refused.reason(config)) is not None:
        raise ParameterError(parameter, f"hold a model that is run here ({reason})", str(folder))
    names = weight_names(folder)
    for name, read in FAMILIES.items():
        try:
            known = read(config, names)
        except ParameterError as error:
            raise ParameterError(parameter, f"hold a {name} model that is run here ({error})", str(folder)) from error
        except (
            Exception
        ) as error:  # a value of another type or size: transformers' configurations raise what they like
            what = f"no {error}" if isinstance(error, KeyError) else in_short(error)
            raise ParameterError(parameter, f"hold the config.json of a {name} model ({what})", str(folder)) from error
        if known is not None:
            return known
    if (code := refused.unknown_code(config)) is not None:
        raise ParameterError(parameter, f"hold a model that is known here ({code})", str(folder))
    return None
