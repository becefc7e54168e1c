"""MDLM (arXiv 2406.07524): `kuleshov-group/mdlm-owt`, its variant without flash attention and those without end tokens around.

An absorbing DiT over GPT-2's tokens. Its time input is there and always told 0, so that the condition is one of the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..published import Published
from . import layout


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of such a folder; None for another."""
    if config.get("model_type") != "mdlm":
        return None
    told = layout.time_conditioning(config, otherwise=False)
    # The ones trained for text of any length ("noeos") say so in their own name alone, which stands at these two places.
    framed = not any("noeos" in str(config.get(key)) for key in ("_name_or_path", "auto_map"))
    return layout.published("mdlm", config, "absorbing", told, framed=framed)
