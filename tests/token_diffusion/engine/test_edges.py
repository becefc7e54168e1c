"""Every option of every sampler at its ends, of networks that see all and of block-causal ones, alone and in one batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import PROCESSES
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.engine.batch import Batch
from token_diffusion.engine.updates import Result
from token_diffusion.errors import ParameterError
from token_diffusion.networks.masked_lm import Pieces
from token_diffusion.samplers.catalogue import KINDS
from token_diffusion.samplers.options import Option
from token_diffusion.samplers.parameters import SamplingParameters

VOCAB, MASK, KEYS = 6, 2, 251
TOKENS = ([-1] * 5, [3, -1, -1, 4, -1, -1, -1], [1, -1], [-1, -1, -1, -1, 5])
ASKED: list[dict[str, Any]] = [
    {},
    {"num_inference_steps": 1},
    {"num_inference_steps": 40, "temperature": 0.0, "top_p": 0.5},
    {"num_inference_steps": None, "block_size": 1},
    {"block_size": 2, "temperature": 1e-9, "min_p": 1.0},
    {"guidance_scale": 1000.0, "label": 1, "top_k": 1},
    {"guidance_scale": 0.0, "label": 0},
]
"""Beside the options, of 4 steps where nothing else is said."""


class Table:
    """A denoiser with a table of logits for what a position sees, which it gives in pieces; it takes only what may be asked."""

    device, num_classes = torch.device("cpu"), 2

    def __init__(self, block_size: int | None) -> None:
        self.block_size = block_size
        self.table = 2 * torch.randn(KEYS, VOCAB, generator=torch.Generator().manual_seed(0))

    def __call__(
        self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        assert bool(valid.view(-1)[positions].all()), "nothing is asked where nothing is seen"
        t = t.repeat_interleave(tokens.shape[1])[positions]
        assert bool(((t > 0) & (t <= 1)).all())
        column = torch.arange(tokens.shape[1])
        end = column // self.block_size * self.block_size + self.block_size if self.block_size else column + KEYS
        sees = valid.unsqueeze(1) & (column < end.unsqueeze(1))
        key = ((tokens + 1) * (7 * column + 3)).unsqueeze(1).mul(sees).sum(2) + 31 * column
        if labels is not None:
            key = key + 17 * (labels + 1).unsqueeze(1)
        return self.table[(key.view(-1)[positions] + (1000 * t).long()) % KEYS]


class InPieces(Table):
    """The same a few positions at a time."""

    def in_pieces(self, *asked: Any) -> Pieces:
        logits = self(*asked)
        return Pieces(lambda number: logits[3 * number : 3 * number + 3].clone(), logits[:3].clone(), len(logits))


def ends(each: Option) -> list[Any]:
    """The values at which an option is most and least."""
    if each.type is bool or each.choices:
        return list(each.choices or (False, True))
    low = each.minimum if each.above is None else 1e-9
    high = each.maximum if each.maximum is not None else 2**31 - 1 if each.type is int else 1e300
    if each.name in ("num_corrector_steps", "num_correction_steps"):
        high = 3
    return [low, high]


def requests(process: str, block_size: int | None) -> Iterator[tuple[list[int], SamplingParameters]]:
    """Those that can be done."""
    batch, count = Batch(Table(block_size), TokenDiffusionScheduler(VOCAB, MASK, process)), 0
    for sampler, kind in KINDS.items():
        for each in kind.options.values() if process in kind.decoders else ():
            for value in ends(each):
                tokens, own = TOKENS[count % len(TOKENS)], {"num_inference_steps": 4} | ASKED[count % len(ASKED)]
                options = {each.name: value}
                if each.name in ("t_on", "t_off", "alpha_on"):
                    options |= {"remdm": {"remask": "loop"}, "psi": {"kappa_schedule": "loop"}}[sampler]
                parameters = SamplingParameters(
                    len(tokens), 2, sampler=sampler, options=options, seed=count, logprobs=True, **own
                )
                count += 1
                for fewer in (parameters, replace(parameters, guidance_scale=1.0, block_size=None)):
                    try:
                        batch.add(count, tokens, fewer)
                    except ParameterError:
                        continue
                    yield tokens, fewer
                    break


def results(batch: Batch) -> dict[Any, Result]:
    found: dict[Any, Result] = {}
    while not batch.idle:
        for update in batch.step():
            assert update.error is None and 0 <= update.t <= 1 and math.isfinite(update.t)
            if update.result is not None:
                found[update.key] = update.result
    return found


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("process", PROCESSES)
def test_options_at_their_ends(process: str, block_size: int | None) -> None:
    scheduler, asked = TokenDiffusionScheduler(VOCAB, MASK, process), list(requests(process, block_size))
    samplers = [name for name, kind in KINDS.items() if process in kind.decoders]
    assert {parameters.sampler for _, parameters in asked} == set(samplers)
    together = Batch(InPieces(block_size), scheduler, max_tokens=60)
    for key, each in enumerate(asked):
        together.add(key, *each)
    for key, result in results(together).items():
        tokens, parameters = asked[key]
        alone = Batch(Table(block_size), scheduler)
        alone.add(key, tokens, parameters)
        assert results(alone)[key] == result, parameters
        its = parameters.for_network(block_size)
        sampler = alone.samplers.of(its)
        assert result.nfe <= sampler.views * sampler.evaluations(tokens, its), parameters
        for row in result.tokens:
            assert MASK not in row and all(given in (-1, token) for given, token in zip(tokens, row, strict=True))
