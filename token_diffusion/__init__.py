"""Token Diffusion: discrete diffusion language models, their mathematics and their samplers."""

from __future__ import annotations

from .diffusion.scheduler import TokenDiffusionScheduler, TokenDiffusionSchedulerOutput
from .errors import ParameterError
from .networks.transformer import TokenDiffusionConfig, TokenDiffusionForMaskedLM
from .sampling import SampleOutput, sample, sample_block, sample_hybrid

__version__ = "0.1.0"
__all__ = [
    "ParameterError",
    "SampleOutput",
    "TokenDiffusionConfig",
    "TokenDiffusionForMaskedLM",
    "TokenDiffusionScheduler",
    "TokenDiffusionSchedulerOutput",
    "sample",
    "sample_block",
    "sample_hybrid",
]
