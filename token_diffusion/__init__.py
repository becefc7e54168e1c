"""Token Diffusion: discrete diffusion language models, their mathematics and their samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .diffusion.scheduler import TokenDiffusionScheduler, TokenDiffusionSchedulerOutput
from .errors import ParameterError
from .networks import bidirectional as bidirectional  # its networks, too, load by AutoModelForMaskedLM
from .networks.transformer import TokenDiffusionConfig, TokenDiffusionForMaskedLM
from .sampling import SampleOutput, Score, sample, sample_block, sample_hybrid, score

if TYPE_CHECKING:
    from .pipelines import TokenDiffusionPipeline, TokenDiffusionPipelineOutput

__version__ = "0.1.0"
__all__ = [
    "ParameterError",
    "SampleOutput",
    "Score",
    "TokenDiffusionConfig",
    "TokenDiffusionForMaskedLM",
    "TokenDiffusionPipeline",
    "TokenDiffusionPipelineOutput",
    "TokenDiffusionScheduler",
    "TokenDiffusionSchedulerOutput",
    "sample",
    "sample_block",
    "sample_hybrid",
    "score",
]


def __getattr__(name: str) -> Any:
    """The pipeline is imported when it is asked for: diffusers' own, which it stands on, are slow to import."""
    if name not in ("TokenDiffusionPipeline", "TokenDiffusionPipelineOutput"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import pipelines

    return getattr(pipelines, name)
