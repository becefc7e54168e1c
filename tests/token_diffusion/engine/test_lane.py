"""Lanes: about one length each, resident rows of which each forward pass takes some, and whose turn it is."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.tiny import NeighbourDenoiser
from token_diffusion import TokenDiffusionScheduler
from token_diffusion.engine.batch import Batch, Update, next_turn
from token_diffusion.engine.lane import bucket, longest
from token_diffusion.engine.shares import Shares
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.text import OPEN

VOCAB, MASK = 7, 3
CPU = torch.device("cpu")


def make_batch(max_tokens: int | None = None) -> tuple[Batch, NeighbourDenoiser]:
    denoiser = NeighbourDenoiser(VOCAB)
    return Batch(denoiser, TokenDiffusionScheduler(VOCAB, MASK), max_tokens=max_tokens), denoiser


def add(batch: Batch, key: str, length: int, samples: int = 1, steps: int = 1000) -> None:
    batch.add(key, [OPEN] * length, SamplingParameters(length, samples, steps, seed=len(key)))


def finish(batch: Batch) -> dict[object, Update]:
    last: dict[object, Update] = {}
    while not batch.idle:
        last |= {update.key: update for update in batch.step()}
    return last


def test_a_bucket_holds_lengths_within_its_growth() -> None:
    for device, growth in ((CPU, 2**0.5), (torch.device("cuda"), 4.0)):
        numbers = [bucket(length, device) for length in range(1, 3000)]
        assert numbers == sorted(numbers) and numbers[31] == 0 and numbers[32] == 1
        assert all(length <= longest(number, device) for length, number in enumerate(numbers, 1))
        for number in set(numbers) - {0}:
            lengths = [length for length, its in enumerate(numbers, 1) if its == number]
            assert max(lengths) / min(lengths) <= growth


def test_rows_of_unlike_lengths_do_not_share_a_forward_pass() -> None:
    batch, denoiser = make_batch()
    for key, length in {"a": 20, "b": 30, "c": 100, "d": 120, "e": 300}.items():
        add(batch, key, length)
    finish(batch)
    assert {width for _, width in denoiser.shapes} >= {30, 120, 300}
    assert {rows for rows, width in denoiser.shapes if width > 120} == {1}
    assert max(rows for rows, _ in denoiser.shapes) == 2


@pytest.mark.parametrize("max_tokens", [1, 64, 100, 200])
def test_a_forward_pass_keeps_within_its_tokens_or_has_one_row(max_tokens: int) -> None:
    batch, denoiser = make_batch(max_tokens)
    for key, samples in {"a": 1, "bb": 5, "ccc": 3, "dddd": 2}.items():
        add(batch, key, 20 + len(key), samples)
    last = finish(batch)
    assert all(rows == 1 or rows * width <= max_tokens for rows, width in denoiser.shapes)
    assert max(rows for rows, _ in denoiser.shapes) >= max(1, max_tokens // 24)
    free, _ = make_batch()
    for key, samples in {"a": 1, "bb": 5, "ccc": 3, "dddd": 2}.items():
        add(free, key, 20 + len(key), samples)
    assert {key: update.result for key, update in last.items()} == {
        key: update.result for key, update in finish(free).items()
    }


def test_a_request_of_more_rows_than_a_pass_takes_tells_one_story() -> None:
    batch, denoiser = make_batch(max_tokens=40)
    add(batch, "many", 20, samples=7, steps=30)
    assert len(batch.lanes) == 1 and len(batch) == 7
    tokens = [[MASK] * 20 for _ in range(7)]
    steps, results = [], []
    while not batch.idle:
        for update in batch.step():
            steps.append(update.step)
            results.append(update.result)
            for sample, position, token in update.changes:
                tokens[sample][position] = token
    assert steps == sorted(steps) and steps[-1] == 30
    assert [result is not None for result in results] == [False] * (len(results) - 1) + [True]
    assert results[-1] is not None and results[-1].tokens == tokens
    assert {rows for rows, _ in denoiser.shapes[:-7]} == {2}


def test_rows_that_stay_are_not_moved_for_those_that_come_and_go() -> None:
    """Slots are used again, and the table grows by doubling."""
    batch, denoiser = make_batch(max_tokens=64)
    for key in ("a", "b", "c", "d"):
        add(batch, key, 32)
    (lane,) = batch.lanes
    for _ in range(3):
        batch.step()
    batch.remove("a")
    batch.remove("c")
    assert len(lane) == len(batch) == 2
    for index in range(15):
        add(batch, f"passes{index}", 32, samples=5)
        batch.step()
        batch.remove(f"passes{index}")
    (residents,) = lane._residents.values()
    assert batch.lanes == [lane] and len(residents.number) <= 16
    assert set(finish(batch)) == {"b", "d"}
    assert max(rows for rows, _ in denoiser.shapes) == 2 and batch.lanes == []


def test_a_long_and_a_short_request_get_equal_shares_of_time() -> None:
    batch, _ = make_batch()
    add(batch, "long", 512, steps=1000)
    add(batch, "short", 32, steps=1000)
    ticks = Counter(batch.step()[0].key for _ in range(30))
    assert ticks["short"] == pytest.approx(ticks["long"] * (100 + 512) / (100 + 32), abs=5)


def test_many_samples_do_not_hold_back_one() -> None:
    """Alone its 64 tokens cost as much as 164 a step; beside sixteen greedy rows no more than about twice that."""
    batch, denoiser = make_batch(max_tokens=2048)
    for index in range(4):
        add(batch, f"greedy{index}", 64, samples=16, steps=5000)
    for _ in range(10):
        batch.step()
    before = len(denoiser.shapes)
    batch.add("one", [OPEN] * 64, SamplingParameters(64, 1, 64), client="another")
    while not any(update.result for update in batch.step() if update.key == "one"):
        pass
    beside = sum(100 + rows * width for rows, width in denoiser.shapes[before:])
    alone, quiet = make_batch(max_tokens=2048)
    add(alone, "one", 64, steps=64)
    finish(alone)
    assert beside <= 2.5 * sum(100 + rows * width for rows, width in quiet.shapes)
    assert len(denoiser.shapes) - before <= len(quiet.shapes) + 3


def test_who_is_new_is_stepped_within_three_ticks_whatever_the_load() -> None:
    batch, _ = make_batch(max_tokens=256)
    for index in range(12):
        add(batch, f"long{index}", 256)
    for _ in range(30):
        batch.step()
    for index in range(30):
        key = f"short{index}"
        add(batch, key, 32, steps=40)
        waited = next(tick for tick in range(1, 10) if any(update.key == key for update in batch.step()))
        assert waited <= 2, "the tick that is under way when it comes is the third"


def test_a_stream_of_short_requests_does_not_starve_a_long_one() -> None:
    batch, _ = make_batch()
    add(batch, "long", 200, steps=1000)
    mine = 0
    for index in range(40):
        add(batch, f"short{index}", 4, steps=1)
        mine += sum(update.key == "long" for update in batch.step())
    assert mine >= 4


def test_newcomers_leave_no_debt_to_those_who_stay_in_their_lane() -> None:
    batch = Batch(NeighbourDenoiser(VOCAB), TokenDiffusionScheduler(VOCAB, MASK, forward_process="uniform"))
    for index in range(8):
        add(batch, f"short{index}", 32, steps=10_000)
    add(batch, "stays", 256, steps=10_000)
    for index in range(100):
        if index % 2 == 0:
            add(batch, f"passes{index}", 256, steps=2)
        batch.step()
    turns = [tick for tick in range(100) if any(update.key == "stays" for update in batch.step())]
    gaps = [after - before for before, after in pairwise([0, *turns])]
    assert len(turns) > 5 and max(gaps) <= 20


def test_batches_that_share_their_turns_get_equal_shares() -> None:
    shares = Shares()
    batches = [Batch(NeighbourDenoiser(VOCAB), TokenDiffusionScheduler(VOCAB, MASK), shares=shares) for _ in range(3)]
    ticks: Counter[int] = Counter()
    for batch in batches[:2]:
        add(batch, "a", 64)
    for tick in range(60):
        if tick == 20:  # one that comes later gets its share from then on, and makes up for nothing
            add(batches[2], "a", 64)
        turn = next_turn(batches, shares)
        assert turn is not None
        assert turn[0].step(turn[1])
        ticks[batches.index(turn[0])] += 1
    assert ticks[0] in (23, 24) and ticks[1] in (23, 24) and ticks[2] in (13, 14)
    assert next_turn(batches[:0], Shares()) is None


class OneBadRow:
    """NaN wherever a row holds the token 5."""

    device = torch.device("cpu")

    def __call__(self, tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        logits = torch.zeros(len(positions), VOCAB)
        logits[:, 5] = -torch.inf
        bad = (tokens == 5).any(1)[positions // tokens.shape[1]]
        return logits.masked_fill(bad.unsqueeze(1), torch.nan)


@pytest.mark.parametrize("process", ["absorbing", "hybrid"])
@pytest.mark.parametrize("max_tokens", [None, 16])
def test_a_network_without_an_answer_fails_the_request_alone(process: str, max_tokens: int | None) -> None:
    scheduler = TokenDiffusionScheduler(VOCAB, MASK, forward_process=process)
    sound = Batch(OneBadRow(), scheduler)
    sound.add("sound", [OPEN] * 7 + [1], SamplingParameters(8, 2, 12, seed=4))
    expected = finish(sound)["sound"]
    batch = Batch(OneBadRow(), scheduler, max_tokens=max_tokens)
    batch.add("sound", [OPEN] * 7 + [1], SamplingParameters(8, 2, 12, seed=4))
    batch.add("bad", [OPEN] * 7 + [5], SamplingParameters(8, 3, 12, seed=4))
    last = finish(batch)
    assert last["bad"].error is not None and "NaN" in last["bad"].error and last["bad"].result is None
    assert last["sound"].result == expected.result
