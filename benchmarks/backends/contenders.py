"""Whoever computes forward passes, in either type of the weights; one that is not there, or refuses, says why."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.errors import ParameterError
from token_diffusion.networks.denoiser import Denoiser, MaskedLMDenoiser

from ..models import plain_model

PLAIN = "torch, plain"
"""The network as transformers loads it, with nothing packed; all others are backends of `load_checkpoint`."""
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Contender:
    """A folder's network, computed by one of the backends or by `PLAIN`, its weights in one of `DTYPES`."""

    folder: Path
    backend: str
    dtype: str

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Raises `ParameterError` where the backend is not installed, or refuses the network or the type."""
        return load_checkpoint(self.folder, dtype=self.dtype, backend=self.backend)

    @cached_property
    def denoiser(self) -> Denoiser:
        """Raises `ParameterError` as `checkpoint` does."""
        if self.backend == PLAIN:
            return MaskedLMDenoiser(plain_model(self.folder, dtype=self.dtype))
        return self.checkpoint.denoiser

    @cached_property
    def refusal(self) -> str | None:
        """Why it cannot be measured, in one line; None where it can."""
        try:
            assert self.denoiser
        except ParameterError as error:
            return str(error)
        return None


def willing(contenders: list[Contender]) -> list[Contender]:
    """Those that can be measured."""
    return [each for each in contenders if each.refusal is None]
