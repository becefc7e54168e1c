"""The pipelines of diffusers: a checkpoint folder called as its users call theirs."""

from __future__ import annotations

from .pipeline import TokenDiffusionPipeline, TokenDiffusionPipelineOutput

__all__ = ["TokenDiffusionPipeline", "TokenDiffusionPipelineOutput"]
