"""Whose logits are: those of a denoiser that gives them away are written over, all others are left as they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_model
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.networks.denoiser import MaskedLMDenoiser, gives_logits
from token_diffusion.networks.rowwise import Rowwise
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run
from token_diffusion.text.encoding import OPEN

VOCAB, MASK, LENGTH = 300, 4, 16

ASKED: list[tuple[str, dict[str, Any]]] = [
    ("absorbing", {}),
    ("absorbing", {"logprobs": True, "temperature": 0.7}),
    ("absorbing", {"sampler": "confidence"}),
    ("absorbing", {"sampler": "entropy", "suppress_end": True}),
    ("absorbing", {"sampler": "confidence", "options": {"ranked_by": "drawn"}, "logprobs": True}),
    ("absorbing", {"sampler": "remdm", "top_p": 0.9}),
    ("absorbing", {"guidance_scale": 2.0}),
    ("uniform", {"top_k": 7}),
    ("uniform", {"logprobs": True, "min_p": 0.01}),
    ("uniform", {"sampler": "gibbs"}),
    ("uniform", {"sampler": "psi"}),
    ("hybrid", {"temperature": 0.0}),
    ("hybrid", {"guidance_scale": 2.0}),
    ("hybrid", {"sampler": "self_correction"}),
]


class Keeping:
    """A denoiser that gives out the same logits again and again, or copies of them if it gives them away."""

    device = torch.device("cpu")
    forbidden, ends = (2, 9), (3,)

    def __init__(self, gives: bool, dtype: torch.dtype = torch.float32) -> None:
        self.gives_logits = gives
        self.kept = (3 * torch.randn(LENGTH * 8, VOCAB, generator=torch.Generator().manual_seed(0))).to(dtype)

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, *labels: Tensor) -> Tensor:
        logits = self.kept[: len(positions)]
        return logits.clone() if self.gives_logits else logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("process", "asked"), ASKED)
def test_logits_that_are_not_given_are_left_as_they_are(
    process: str, asked: dict[str, Any], dtype: torch.dtype
) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    parameters = SamplingParameters(**{"seq_len": LENGTH, "num_samples": 3, "num_inference_steps": 6} | asked)
    tokens, outputs = [7, 8, *[OPEN] * (LENGTH - 2)], []
    for gives in (False, True):
        denoiser = Keeping(gives, dtype)
        outputs.append(run(denoiser, scheduler, parameters, tokens))
        assert gives or torch.equal(denoiser.kept, Keeping(gives, dtype).kept)
    lent, given = outputs
    assert torch.equal(lent.sequences, given.sequences)
    if parameters.logprobs:
        torch.testing.assert_close(lent.logprobs, given.logprobs, rtol=0, atol=0, equal_nan=True)


def test_who_gives_logits_away() -> None:
    """A masked LM, whose head has made them for the call; not a foreign denoiser, not in a pass for each row either."""
    model = MaskedLMDenoiser(tiny_model("bert"))
    assert gives_logits(model) and gives_logits(Rowwise(model))
    foreign: Any = Keeping(False)
    assert not gives_logits(foreign) and not gives_logits(Rowwise(foreign)) and not gives_logits(lambda *asked: None)
