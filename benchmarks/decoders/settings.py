"""Which decoders are measured, and at what budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from token_diffusion.samplers.parameters import SamplingParameters

BUDGETS = (8, 32, 128)
"""Steps, where a decoder has steps."""


@dataclass(frozen=True)
class Setting:
    """A decoder at one budget. name: of the decoder, whose settings make one curve. budget: in words. fields: of a request."""

    name: str
    budget: str
    fields: dict[str, Any] = field(default_factory=dict)

    def parameters(self, seq_len: int, num_samples: int, seed: int = 0, **more: Any) -> SamplingParameters:
        return SamplingParameters(seq_len=seq_len, num_samples=num_samples, seed=seed, **self.fields | more)


def settings(process: str, budgets: Sequence[int] = BUDGETS) -> Iterator[Setting]:
    """All that fit a process."""
    for steps in budgets:
        yield Setting("ancestral", f"{steps} steps", {"num_inference_steps": steps})
    if process == "absorbing":
        yield Setting("first-hitting", "", {"num_inference_steps": None})
