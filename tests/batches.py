"""Requests that share a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from token_diffusion.engine.batch import Batch
from token_diffusion.samplers.parameters import SamplingParameters


def together(denoiser: Any, scheduler: Any, requests: Sequence[SamplingParameters], **options: Any) -> list[Any]:
    """The tokens of requests in one batch."""
    batch, found = Batch(denoiser, scheduler, **options), dict[Any, Any]()
    for key, parameters in enumerate(requests):
        batch.add(key, [-1] * parameters.seq_len, parameters)
    while not batch.idle:
        found |= {update.key: update.result for update in batch.step() if update.result is not None}
    return [found[key].tokens for key in range(len(requests))]
