"""Block-causal networks: blocks from position 0, each given those before it, and a law that is exact all the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.laws import BlockCausalDenoiser, chi_square_p, counts, make_law
from tests.tiny import PROCESSES, tiny_model
from token_diffusion import ParameterError, TokenDiffusionScheduler, sample, sample_block, sample_hybrid, score
from token_diffusion.engine.batch import Batch, BlockEnd, Result, Scores, Update
from token_diffusion.networks.denoiser import MaskedLMDenoiser, block_size_of
from token_diffusion.networks.rowwise import Rowwise
from token_diffusion.pipelines.requests import Requests
from token_diffusion.samplers.blocks import blocks_of
from token_diffusion.samplers.parameters import SamplingParameters, ScoringParameters

P = 0.001
KINDS = [*((process, "times") for process in PROCESSES), ("absorbing", "counts")]


def updates_of(batch: Batch) -> dict[object, list[Update]]:
    found: dict[object, list[Update]] = {}
    while not batch.idle:
        for update in batch.sweep():
            found.setdefault(update.key, []).append(update)
    return found


@pytest.mark.parametrize(
    ("tokens", "start", "is_open"),
    [
        ([-1] * 7, 0, (3, 3, 1)),
        ([5, -1, -1, -1, -1], 0, (2, 2)),
        ([5, 5, 5, 5, -1, -1, -1], 3, (2, 1)),
        ([5, 5], 0, ()),
    ],
)
def test_aligned_blocks_begin_at_multiples_of_their_size(
    tokens: list[int], start: int, is_open: tuple[int, ...]
) -> None:
    asked = SamplingParameters(len(tokens)).for_network(3)
    blocks = blocks_of(tokens, asked)
    assert (blocks.start, blocks.open) == (start, is_open)
    assert blocks.span(1) == (start + 3, min(start + 6, len(tokens)))
    first = tokens.index(-1) if -1 in tokens else 0
    assert blocks_of(tokens, SamplingParameters(len(tokens), block_size=3)).start == first


@pytest.mark.parametrize("tokens", [[-1, -1, -1, -1], [2, -1, -1, -1], [1, 2, -1, -1], [2, 1, 1, -1], [-1, 2, -1, -1]])
@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_blocks_follow_the_law(tokens: list[int], block_size: int) -> None:
    """Prompts that end with a block, and inside one; a hole before a fixed token, both in one block."""
    law, scheduler = make_law(3, 4, 0, seed=3), TokenDiffusionScheduler(3, 0)
    denoiser = BlockCausalDenoiser(law, scheduler, block_size)
    arguments: dict[str, Any] = {"num_samples": 1500, "seq_len": 4, "num_inference_steps": None, "tokens": tokens}
    if tokens[0] < 0 < tokens[1] and block_size == 1:
        with pytest.raises(ParameterError, match="tokens must have nothing fixed behind the block of 1 tokens"):
            sample_block(denoiser, scheduler, **arguments)
        return
    output = sample_block(denoiser, scheduler, **arguments)
    assert chi_square_p(counts(law, output.sequences), law.given(tokens)) > P
    assert output.nfe == sum(token < 0 for token in tokens)


@pytest.mark.parametrize("process", ["uniform", "hybrid"])
def test_blocks_of_the_other_processes_follow_the_law(process: str) -> None:
    law, scheduler = make_law(3, 3, 1, seed=2), TokenDiffusionScheduler(3, 1, forward_process=process)
    denoiser, tokens = BlockCausalDenoiser(law, scheduler, 2), [2, -1, -1]
    output = sample_block(
        denoiser, scheduler, num_samples=800, seq_len=3, num_inference_steps=80, tokens=tokens, block_size=2
    )
    assert chi_square_p(counts(law, output.sequences), law.given(tokens)) > P


def test_a_network_that_sees_the_noise_before_it_has_another_law() -> None:
    """What the tests above can tell: blocks of another size, counted from another place."""
    law, scheduler = make_law(3, 4, 0, seed=3, sharpness=2), TokenDiffusionScheduler(3, 0)
    exact = BlockCausalDenoiser(law, scheduler, 2)
    blind = lambda z, t: exact(z, t)  # noqa: E731  (says nothing of its blocks)
    output = sample(blind, scheduler, num_samples=1500, seq_len=4, num_inference_steps=None)
    assert chi_square_p(counts(law, output.sequences), law.probability) < 1e-6
    shifted = sample_block(blind, scheduler, num_samples=1500, seq_len=4, block_size=2, tokens=[1, -1, -1, -1])
    assert chi_square_p(counts(law, shifted.sequences), law.given([1, -1, -1, -1])) < 1e-6


@pytest.mark.parametrize("block_size", [1, 2, 3])
@pytest.mark.parametrize(("process", "estimator"), KINDS)
def test_a_score_is_the_probability_of_the_text(process: str, estimator: Any, block_size: int) -> None:
    """With the exact network the bound is -ln p, whatever the blocks; the last is shorter."""
    law = make_law(4, 4, 3)
    scheduler = TokenDiffusionScheduler(4, 3, forward_process=process)
    for place in law.probability.argsort()[[2, -1]].tolist():
        text, nats = law.sequences[place].tolist(), -law.probability[place].log().item()
        denoiser = BlockCausalDenoiser(law, scheduler, block_size)
        (found,) = score(denoiser, scheduler, [text], num_times=3000, estimator=estimator, seed=1)
        assert found.nats_error is not None and found.nats_error < 0.25
        assert abs(found.nats - nats) < 4 * found.nats_error + 1e-9
        blocks = math.ceil(4 / block_size)
        assert found.nfe <= 3000 * blocks and (estimator == "times" or found.nfe == 3000 * blocks)


def test_blocks_of_one_token_leave_nothing_to_chance() -> None:
    """An autoregressive model: with one mask in a block its count is 1, at weight 1."""
    law, scheduler = make_law(4, 3, 3), TokenDiffusionScheduler(4, 3)
    text = law.sequences[5].tolist()
    (found,) = score(BlockCausalDenoiser(law, scheduler, 1), scheduler, [text], num_times=2)
    assert found.nats == pytest.approx(-law.probability[5].log().item(), rel=1e-9)
    (given,) = score(BlockCausalDenoiser(law, scheduler, 1), scheduler, [text], given=[[0]], num_times=2)
    known = law.probability[law.sequences[:, 0] == text[0]].sum()
    assert given.nats == pytest.approx(-(law.probability[5] / known).log().item(), rel=1e-9)
    assert given.nfe == 4, "nothing is asked of a block that is given whole"


@pytest.mark.parametrize("process", PROCESSES)
def test_alone_and_among_others(process: str) -> None:
    """Samples and scores of a block-causal network, in whatever passes they meet, each row in one of its own."""
    scheduler = TokenDiffusionScheduler(50, 4, forward_process=process)
    model = tiny_model("token-diffusion", causal_block_size=4)
    prompt = [7, 8, 9, 10, 11]
    asked: dict[object, tuple[list[int], Any]] = {
        length: (prompt[: length % 6] + [-1] * (length - length % 6), SamplingParameters(length, 2, 6, seed=length))
        for length in (5, 9, 14, 23)
    }
    asked["text"] = ([7, 9, 30, 31, 8, 6], ScoringParameters(6, 4, seed=5))

    def finish(keys: list[object]) -> dict[object, Update]:
        batch = Batch(model, scheduler, determinism="exact", max_tokens=60)
        for key in keys:
            batch.add(key, *asked[key])
        return {key: updates[-1] for key, updates in updates_of(batch).items()}

    together = finish(list(asked))
    for key in asked:
        alone, beside = finish([key])[key].result, together[key].result
        assert isinstance(alone, Result) and alone == beside
        if isinstance(alone, Scores) and isinstance(beside, Scores):
            np.testing.assert_allclose(alone.values, beside.values, rtol=1e-5)
            assert alone.values.any()


def test_blocks_are_told_as_they_lie() -> None:
    """With a prompt that ends inside a block: the blocks from there on, and steps for these alone."""
    batch = Batch(tiny_model("token-diffusion", causal_block_size=4), TokenDiffusionScheduler(50, 4))
    batch.add(0, [7] * 6 + [-1] * 7, SamplingParameters(13, 2, 5))
    updates = updates_of(batch)[0]
    assert [end for update in updates for end in update.blocks] == [
        BlockEnd(0, 4, 8),
        BlockEnd(1, 8, 12),
        BlockEnd(2, 12, 13),
    ]
    result = updates[-1].result
    assert result is not None and result.nfe + result.forwards_skipped == 15
    own = torch.tensor(result.step_map)
    assert bool((own[:, :6] == 0).all()) and bool((own[:, 6:8] <= 5).all()) and bool((own[:, 12] > 10).all())


class Scored:
    """A block-causal network that looks at what it is shown: all logits alike."""

    device, block_size = torch.device("cpu"), 3

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        rows = positions // tokens.shape[1]
        for row, tokens_of_row in enumerate(tokens):
            column = positions[rows == row] % tokens.shape[1]
            if len(column):
                start = int(column[0]) // 3 * 3
                assert bool((column // 3 == start // 3).all()), "one block at a time"
                assert bool((tokens_of_row[:start] != 6).all()), "those before it clean"
                self.seen.append(column)
        return torch.zeros(len(positions), 7)


def test_each_block_is_asked_once_a_time_with_those_before_it_clean() -> None:
    network = Scored()
    batch = Batch(network, TokenDiffusionScheduler(7, 6), max_tokens=24)
    batch.add("text", [1] * 8, ScoringParameters(8, 4, given=(0,)))
    updates = updates_of(batch)["text"]
    result = updates[-1].result
    assert isinstance(result, Scores) and result.nfe == len(network.seen) == 12 and result.forwards_skipped == 0
    assert [update.left for update in updates] == sorted((update.left for update in updates), reverse=True)
    assert updates[-1].left == 0 and updates[0].left < 8 * 12


def test_another_block_size_and_another_way_are_refused() -> None:
    model, scheduler = tiny_model("token-diffusion", causal_block_size=4), TokenDiffusionScheduler(50, 4)
    with pytest.raises(ParameterError, match="block_size must be 4, as the network is block-causal, got 8"):
        sample_block(model, scheduler, seq_len=8, block_size=8)
    with pytest.raises(
        ParameterError, match="denoiser must see the whole sequence for sample, and not be block-causal"
    ):
        sample(model, scheduler, seq_len=8)
    hybrid = TokenDiffusionScheduler(50, 4, forward_process="hybrid")
    with pytest.raises(ParameterError, match="whole sequence for sample_hybrid"):
        sample_hybrid(MaskedLMDenoiser(model), hybrid, seq_len=8)
    assert sample_block(model, scheduler, seq_len=6, num_inference_steps=4).sequences.shape == (1, 6)
    with pytest.raises(ParameterError, match="a token at position 4"):
        sample_block(model, scheduler, seq_len=6, tokens=[-1, 8, -1, -1, 9, -1])


def test_whatever_asks_the_network_says_how_large_its_blocks_are() -> None:
    model = tiny_model("token-diffusion", causal_block_size=4)
    assert block_size_of(model) == block_size_of(MaskedLMDenoiser(model)) == 4
    assert block_size_of(Rowwise(MaskedLMDenoiser(model))) == 4
    assert block_size_of(tiny_model("token-diffusion")) is block_size_of(tiny_model("bert")) is None
    requests = Requests(model, TokenDiffusionScheduler(50, 4), [([7, 7, -1, -1, -1], SamplingParameters(5, 1, 3))])
    assert requests.total == 6
