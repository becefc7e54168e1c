"""On a GPU: the samplers' laws, the seed contract with the CPU, alone and among others, each by torch and by what it compiles.

`TD_TEST_DEVICE=cpu` runs the same on the CPU; without it, and without a CUDA device, they skip themselves.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import MaskedLMOutput

from tests.laws import Law, chi_square_p, counts, make_law
from tests.tiny import PROCESSES, save_tiny
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.checkpoint import Checkpoint, load_checkpoint
from token_diffusion.engine.batch import Batch
from token_diffusion.networks.backends import handed_over
from token_diffusion.networks.denoiser import MaskedLMDenoiser
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.sampling import run

DEVICE = os.environ.get("TD_TEST_DEVICE", "cuda")
BACKENDS = ("torch", "compile")
P = 1e-4
"""Below which a law is held to be another one."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # compilers and drivers have some of their own
    pytest.mark.skipif(DEVICE.startswith("cuda") and not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class LawNetwork(nn.Module):
    """The exact denoiser of a law as a masked LM: a table of all states. Padding, and what is missing at the end, are masks.

    For absorbing, of which no answer follows the time.
    """

    base: Tensor

    def __init__(self, law: Law) -> None:
        super().__init__()
        self.mask, self.length = law.mask_token_id, law.sequences.shape[1]
        states = torch.tensor(list(itertools.product(range(law.vocab_size), repeat=self.length)))
        scheduler = TokenDiffusionScheduler(law.vocab_size, self.mask)
        logits = law.denoiser(scheduler)(states, torch.full((len(states),), 0.5)).float()
        self.table = nn.Parameter(logits, requires_grad=False)
        self.register_buffer("base", law.vocab_size ** torch.arange(self.length - 1, -1, -1))
        text = SimpleNamespace(vocab_size=law.vocab_size)
        self.config = SimpleNamespace(get_text_config=lambda: text, max_position_embeddings=self.length)

    @property
    def base_model(self) -> LawNetwork:
        return self

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> MaskedLMOutput:
        length = input_ids.shape[1]
        shown = torch.where(attention_mask.bool(), input_ids, self.mask)
        state = (F.pad(shown, (0, self.length - length), value=self.mask) * self.base).sum(1)
        logits: Any = self.table[state][:, :length]
        return MaskedLMOutput(logits=logits)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("asked", [{"num_inference_steps": None}, {"sampler": "random", "num_inference_steps": 3}])
def test_absorbing_has_its_law(backend: str, asked: dict[str, Any]) -> None:
    law = make_law(4, 3, 3)
    plain = MaskedLMDenoiser(LawNetwork(law).to(DEVICE))
    denoiser = plain if backend == "torch" else handed_over(backend, plain, "float32")
    parameters = SamplingParameters(seq_len=3, num_samples=4000, seed=1, **asked)
    drawn = run(denoiser, TokenDiffusionScheduler(4, 3), parameters)
    assert chi_square_p(counts(law, drawn.sequences), law.probability) > P


class Elsewhere:
    """A law's denoiser whose logits lie on the device: they are drawn from there."""

    def __init__(self, law: Law, scheduler: TokenDiffusionScheduler) -> None:
        self.device, self.denoiser = torch.device(DEVICE), law.denoiser(scheduler)

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        return self.denoiser(tokens.cpu(), t.cpu()).to(self.device).flatten(0, 1)[positions]


@pytest.mark.parametrize(
    ("process", "sampler"),
    [("absorbing", "ancestral"), ("uniform", "ancestral"), ("hybrid", "ancestral"), ("uniform", "gibbs")],
)
def test_on_many_steps_each_has_its_law(process: str, sampler: str) -> None:
    law = make_law(3, 2, 1, seed=1)
    scheduler = TokenDiffusionScheduler(3, 1, forward_process=process)
    parameters = SamplingParameters(seq_len=2, num_samples=1000, num_inference_steps=100, seed=2, sampler=sampler)
    drawn = run(Elsewhere(law, scheduler), scheduler, parameters)
    assert chi_square_p(counts(law, drawn.sequences), law.probability) > P


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_gives_the_same_tokens_there_and_on_the_cpu(tmp_path: Path, backend: str) -> None:
    for process in PROCESSES:
        folder = save_tiny(tmp_path / process, process)
        here, there = load_checkpoint(folder), load_checkpoint(folder, device=DEVICE, backend=backend)
        shapings: list[dict[str, Any]] = [{}, {"temperature": 0.0}, {"block_size": 8}]
        shapings += [{"top_p": 0.9, "top_k": 20, "min_p": 0.01}]
        for shaping in shapings:
            parameters = SamplingParameters(seq_len=24, num_samples=2, num_inference_steps=8, seed=3, **shaping)
            one, other = (run(each.denoiser, each.scheduler, parameters).sequences for each in (here, there))
            assert one.equal(other), (process, shaping)


def among(checkpoint: Checkpoint, requests: list[SamplingParameters], determinism: Any) -> list[list[list[int]]]:
    """Tokens of each, sampled together."""
    batch = Batch(checkpoint.denoiser, checkpoint.scheduler, determinism=determinism)
    for key, parameters in enumerate(requests):
        batch.add(key, [-1] * parameters.seq_len, parameters)
    found: dict[Any, Any] = {}
    while not batch.idle:
        found |= {update.key: update.result.tokens for update in batch.step() if update.result is not None}
    return [found[key] for key in range(len(requests))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_in_exact_mode_neighbours_change_nothing(tmp_path: Path, backend: str, dtype: str) -> None:
    checkpoint = load_checkpoint(save_tiny(tmp_path, "uniform"), device=DEVICE, dtype=dtype, backend=backend)
    requests = [SamplingParameters(seq_len=9 + 11 * k, num_samples=2, num_inference_steps=6, seed=k) for k in range(5)]
    together = among(checkpoint, requests, "exact")
    for request, tokens in zip(requests, together, strict=True):
        assert among(checkpoint, [request], "exact") == [tokens]
