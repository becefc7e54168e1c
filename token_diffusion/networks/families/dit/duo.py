"""Duo (arXiv 2506.10892): `s-sahoo/duo` and `duo-distilled`, a DiT with uniform noise that is told sigma = -ln alpha.

Distillation changes the weights alone. The last id, of a padding token that no text holds, is where ours has its mask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ....errors import ParameterError
from ..published import Published
from . import layout


def read(config: Mapping[str, Any], names: Collection[str]) -> Published | None:
    """What is known of such a folder; None for another."""
    if str(config.get("model_type")).lower() != "duo":
        return None
    if config.get("causal", False):
        raise ParameterError("causal", "be false, as attention to all positions is", True)
    return layout.published("duo", config, "uniform", "sigma")
