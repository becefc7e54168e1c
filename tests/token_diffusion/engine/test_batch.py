"""The one step loop: neighbours change nothing, and updates, step map and counts say what happened."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.laws import make_law
from tests.tiny import PROCESSES, NeighbourDenoiser, tiny_model
from token_diffusion import ParameterError, TokenDiffusionScheduler
from token_diffusion.engine.batch import Batch, Determinism, Result, Update
from token_diffusion.engine.table import Table
from token_diffusion.networks.denoiser import CallableDenoiser
from token_diffusion.samplers import Samplers, price
from token_diffusion.samplers.parameters import SamplingParameters
from token_diffusion.samplers.rows import Rows
from token_diffusion.text import OPEN

VOCAB, MASK = 7, 3


@dataclass(frozen=True)
class Request:
    tokens: list[int]
    parameters: SamplingParameters

    @property
    def open(self) -> list[int]:
        return [position for position, token in enumerate(self.tokens) if token == OPEN]

    @property
    def block_starts(self) -> list[int]:
        return list(range(self.open[0], self.open[-1] + 1, self.parameters.block_size or len(self.tokens)))

    @property
    def total_steps(self) -> int:
        return (self.parameters.num_inference_steps or 0) * len(self.block_starts)


@dataclass
class History:
    """What a request's owner sees."""

    initial: list[list[int]]
    updates: list[Update]

    @property
    def result(self) -> Result:
        result = self.updates[-1].result
        assert result is not None
        return result


def random_requests(process: str, count: int, vocab_size: int = VOCAB, mask: int = MASK) -> list[Request]:
    """Unlike lengths, holes, grids, blocks, shaping, seeds and numbers of samples; the same ones every time."""
    choose = random.Random(process)
    ids = [token for token in range(vocab_size) if token != mask]
    grids = [1, 2, 5, 30] + [None] * (process == "absorbing")
    requests = []
    for _ in range(count):
        length = choose.randint(2, 14)
        tokens = [choose.choice([OPEN, OPEN, choose.choice(ids)]) for _ in range(length)]
        tokens[choose.randrange(length)] = OPEN
        parameters = SamplingParameters(
            length,
            num_samples=choose.randint(1, 3),
            num_inference_steps=choose.choice(grids),
            temperature=choose.choice([0.0, 0.6, 1.0, 1.7]),
            top_p=choose.choice([0.7, 1.0, 1.0]),
            min_p=choose.choice([0.2, 0.0, 0.0]),
            top_k=choose.choice([0, 0, 3]),
            seed=choose.randrange(2**63),
            block_size=choose.choice([None, None, 1, 4]),
        )
        requests.append(Request(tokens, parameters))
    return requests


def make_scheduler(process: str, vocab_size: int = VOCAB, mask: int = MASK) -> TokenDiffusionScheduler:
    return TokenDiffusionScheduler(vocab_size, mask, forward_process=process)


def drive(
    batch: Batch, requests: Sequence[Request], arrivals: Mapping[int, int], in_turn: bool = False
) -> dict[int, History]:
    """Request i joins before tick arrivals[i]; the batch is run until it is idle, everybody in each tick or by their shares."""
    histories: dict[int, History] = {}
    tick = 0
    while len(batch) or tick <= max(arrivals.values()):
        for key in [key for key, when in arrivals.items() if when == tick]:
            histories[key] = History(batch.add(key, requests[key].tokens, requests[key].parameters), [])
        record(histories, batch.step() if in_turn else batch.sweep())
        tick += 1
    assert batch.step() == []
    return histories


def record(histories: dict[int, History], updates: Sequence[Update]) -> None:
    for update in updates:
        if update.key in histories:
            histories[update.key].updates.append(update)


def alone(
    denoiser: Callable[[Tensor, Tensor], Tensor] | torch.nn.Module,
    scheduler: TokenDiffusionScheduler,
    requests: Sequence[Request],
) -> dict[int, History]:
    histories: dict[int, History] = {}
    for key in range(len(requests)):
        histories |= drive(Batch(denoiser, scheduler), requests, {key: 0})
    return histories


@pytest.fixture(scope="module", params=PROCESSES)
def process(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def requests(process: str) -> list[Request]:
    return random_requests(process, 14)


@pytest.fixture(scope="module")
def histories(process: str, requests: list[Request]) -> dict[int, History]:
    """Each request's run without neighbours."""
    return alone(NeighbourDenoiser(VOCAB), make_scheduler(process), requests)


def test_neighbours_that_come_and_go_change_nothing(
    process: str, requests: list[Request], histories: dict[int, History]
) -> None:
    """Every update, not only the tokens: steps, times, counts, changes and blocks."""
    choose = random.Random(0)
    arrivals = {key: choose.randrange(20) for key in range(len(requests))}
    denoiser = NeighbourDenoiser(VOCAB)
    together = drive(Batch(denoiser, make_scheduler(process)), requests, arrivals)
    assert together == histories
    assert max(rows for rows, _ in denoiser.shapes) >= 8
    assert len(denoiser.shapes) < sum(history.result.nfe for history in histories.values()) / 2


@pytest.mark.parametrize("max_tokens", [None, 60, 14])
def test_turns_change_no_token(
    process: str, requests: list[Request], histories: dict[int, History], max_tokens: int | None
) -> None:
    """A row is in some ticks only, now beside these and now beside those."""
    choose = random.Random(1)
    arrivals = {key: choose.randrange(30) for key in range(len(requests))}
    denoiser = NeighbourDenoiser(VOCAB)
    batch = Batch(denoiser, make_scheduler(process), max_tokens=max_tokens)
    together = drive(batch, requests, arrivals, in_turn=True)
    assert {key: history.result for key, history in together.items()} == {
        key: history.result for key, history in histories.items()
    }
    assert max(rows * width for rows, width in denoiser.shapes) <= (max_tokens or 1000)
    for history in together.values():
        tokens = [list(row) for row in history.initial]
        for update in history.updates:
            for sample, position, token in update.changes:
                tokens[sample][position] = token
        assert tokens == history.result.tokens
        steps, left = ([getattr(update, name) for update in history.updates] for name in ("step", "left"))
        assert steps == sorted(steps) and left == sorted(left, reverse=True)


def test_a_price_bounds_what_is_needed(process: str, requests: list[Request], histories: dict[int, History]) -> None:
    """What is left of it is never less than what is to come, and nothing in the end."""
    samplers = Samplers(make_scheduler(process))
    exact = 0
    for key, request in enumerate(requests):
        p, result = request.parameters, histories[key].result
        sampler = samplers.of(p)
        bound = sampler.evaluations(request.tokens, p)
        assert result.nfe <= bound
        assert price(sampler, request.tokens, p) == p.num_samples * p.seq_len * bound
        assert price(sampler, [OPEN] * p.seq_len, p) >= price(sampler, request.tokens, p)
        exact += result.nfe == bound
        for update in histories[key].updates:
            assert update.left >= (result.nfe - update.nfe) * p.seq_len
        assert histories[key].updates[-1].left == 0
    assert exact >= 3


def test_a_real_model_alone_and_among_seven_others(process: str) -> None:
    model, scheduler = tiny_model(vocab_size=50), make_scheduler(process, 50, 4)
    requests = random_requests(process, 8, 50, 4)
    together = drive(Batch(model, scheduler), requests, {key: key % 3 for key in range(8)})
    for key, history in alone(model, scheduler, requests).items():
        assert together[key].result == history.result


def test_neighbours_change_nothing_for_an_exact_denoiser(process: str) -> None:
    law, scheduler = make_law(VOCAB, 3, MASK), make_scheduler(process)
    seeds = range(6)
    requests = [Request([OPEN] * 3, SamplingParameters(3, 2, 10, seed=seed)) for seed in seeds]
    together = drive(Batch(law.denoiser(scheduler), scheduler), requests, {seed: 2 * seed for seed in seeds})
    assert together == alone(law.denoiser(scheduler), scheduler, requests)
    assert len({str(history.result.tokens) for history in together.values()}) == len(seeds)


def test_changes_replay_to_the_tokens_and_the_step_map(requests: list[Request], histories: dict[int, History]) -> None:
    for key, history in histories.items():
        tokens = [list(row) for row in history.initial]
        changed_at = [[0] * len(row) for row in tokens]
        for update in history.updates:
            for sample, position, token in update.changes:
                assert tokens[sample][position] != token, "a change that changes nothing"
                tokens[sample][position] = token
                changed_at[sample][position] = update.step
        assert tokens == history.result.tokens
        touched = [[step > 0 for step in row] for row in changed_at]
        assert touched == [[step > 0 for step in row] for row in history.result.step_map]
        if requests[key].parameters.num_samples == 1 and requests[key].parameters.num_inference_steps is None:
            assert changed_at == history.result.step_map


def test_the_step_map_holds_the_step_of_the_last_change(process: str) -> None:
    """On as many steps as the network needs for one sample, no step is jumped over: updates tell each by its number."""
    request = Request([OPEN, 1, *[OPEN] * 12], SamplingParameters(14, 1, 6, seed=3, block_size=7))
    batch = Batch(NeighbourDenoiser(VOCAB), make_scheduler(process))
    history = drive(batch, [request], {0: 0})[0]
    expected = [0] * 14
    for update in history.updates:
        for _, position, _ in update.changes:
            expected[position] = update.step
    assert history.result.step_map == [expected]
    assert 1 < len(set(expected)) <= 13 and max(expected) <= 12


def test_the_step_map_of_absorbing_holds_the_steps_that_were_drawn() -> None:
    """Also that of the last position, though nothing happens between its step and the end of the grid."""
    scheduler, parameters = make_scheduler("absorbing"), SamplingParameters(5, 2, 1000, seed=4)
    rows = Samplers(scheduler).of(parameters).rows([OPEN] * 5, parameters)
    batch = Batch(NeighbourDenoiser(VOCAB), scheduler)
    history = drive(batch, [Request([OPEN] * 5, parameters)], {0: 0})[0]
    assert history.result.step_map == rows.due_step.tolist()


def test_no_mask_is_left_and_fixed_positions_never_change(
    requests: list[Request], histories: dict[int, History]
) -> None:
    for request, history in zip(requests, histories.values(), strict=True):
        result = history.result
        assert len(result.tokens) == len(result.step_map) == request.parameters.num_samples
        for row, steps in zip(result.tokens, result.step_map, strict=True):
            assert MASK not in row and max(row) < VOCAB and min(row) >= 0
            for position, token in enumerate(request.tokens):
                if token != OPEN:
                    assert row[position] == token and steps[position] == 0
        touched = {position for update in history.updates for _, position, _ in update.changes}
        assert touched <= set(request.open)
        assert result.prompt_tokens == len(request.tokens) - len(request.open)
        assert result.completion_tokens == len(request.open) * request.parameters.num_samples


def test_network_evaluations_are_counted(process: str, requests: list[Request], histories: dict[int, History]) -> None:
    for request, history in zip(requests, histories.values(), strict=True):
        result, total = history.result, request.total_steps
        assert [update.nfe for update in history.updates] == list(range(1, result.nfe + 1))
        if request.parameters.num_inference_steps is None:
            assert (result.nfe, result.forwards_skipped) == (len(request.open), 0)
        else:
            assert result.nfe + result.forwards_skipped == total
        if process == "absorbing":
            assert result.nfe <= len(request.open)
        size = request.parameters.block_size or len(request.tokens)
        assert result.nfe >= sum(OPEN in request.tokens[start : start + size] for start in request.block_starts)


def test_steps_rise_to_the_last_and_times_end_at_zero(requests: list[Request], histories: dict[int, History]) -> None:
    for request, history in zip(requests, histories.values(), strict=True):
        steps = [update.step for update in history.updates]
        assert steps == sorted(steps)
        assert steps[-1] == (request.total_steps or len(request.open))
        assert history.updates[-1].t == 0
        if request.parameters.block_size is None:
            times = [update.t for update in history.updates]
            assert times == sorted(times, reverse=True) and times[0] < 1
        assert [update.result is not None for update in history.updates] == [False] * (len(steps) - 1) + [True]


def test_times_are_those_of_the_grid_in_float64(process: str) -> None:
    """Those that the network sees, and those that are told."""
    seen: list[float] = []

    def denoiser(tokens: Tensor, t: Tensor, valid: Tensor, positions: Tensor) -> Tensor:
        assert t.dtype == torch.float64
        seen.extend(t.tolist())
        return torch.zeros(len(positions), VOCAB)

    request = Request([OPEN] * 8, SamplingParameters(8, 1, 10, seed=1, block_size=4))
    history = drive(Batch(denoiser, make_scheduler(process)), [request], {0: 0})[0]
    grid = [1 - k / 10 for k in range(11)]
    assert all(min(abs(t - point) for point in grid[:-1]) < 1e-12 for t in seen)
    for update in history.updates:
        assert update.t == pytest.approx(grid[(update.step - 1) % 10 + 1], abs=1e-12)


def test_blocks_end_in_order_once_they_are_filled(requests: list[Request], histories: dict[int, History]) -> None:
    several = 0
    for request, history in zip(requests, histories.values(), strict=True):
        size, length = request.parameters.block_size or len(request.tokens), len(request.tokens)
        tokens, told, filled = [list(row) for row in history.initial], 0, request.open[0]
        for update in history.updates:
            for sample, position, token in update.changes:
                assert position >= filled, "a change inside a block that was told to be filled"
                tokens[sample][position] = token
            for block in update.blocks:
                assert (block.block, block.start) == (told, request.block_starts[told])
                assert block.end == min(block.start + size, length)
                assert all(MASK not in row[: block.end] for row in tokens)
                told, filled = told + 1, block.end
        assert told == len(request.block_starts) and filled > request.open[-1]
        several += told > 1
    assert several >= 3


def test_a_neighbour_taken_out_changes_nothing(
    process: str, requests: list[Request], histories: dict[int, History]
) -> None:
    """It leaves at once, its columns too, and the others go on as if it had never been."""
    denoiser = NeighbourDenoiser(VOCAB)
    batch = Batch(denoiser, make_scheduler(process))
    batch.add("long", [OPEN] * 32, SamplingParameters(32, 3, 1000, seed=1))
    arrivals = {key: History(batch.add(key, each.tokens, each.parameters), []) for key, each in enumerate(requests)}
    batch.remove("nobody")
    for _ in range(2):
        record(arrivals, batch.sweep())
    before = len(batch)
    batch.remove("long")
    assert before - 3 == len(batch) > 3
    while len(batch):
        record(arrivals, batch.sweep())
    assert arrivals == histories
    widths = [width for _, width in denoiser.shapes]
    assert widths[:2] == [32, 32] and max(widths[2:]) <= 14


def test_columns_go_with_the_longest_row(process: str) -> None:
    denoiser = NeighbourDenoiser(VOCAB)
    requests = [
        Request([OPEN] * 12, SamplingParameters(12, 1, 1, seed=1)),
        Request([OPEN] * 3, SamplingParameters(3, 1, 30, seed=2)),
    ]
    batch = Batch(denoiser, make_scheduler(process))
    together = drive(batch, requests, {0: 1, 1: 0})
    assert [width for _, width in denoiser.shapes[:2]] == [3, 12]
    assert {width for _, width in denoiser.shapes[2:]} == {3}
    assert together == alone(denoiser, make_scheduler(process), requests)


def test_an_idle_batch_leaves_the_network_alone(process: str) -> None:
    denoiser = NeighbourDenoiser(VOCAB)
    batch = Batch(denoiser, make_scheduler(process))
    assert batch.step() == [] and len(batch) == 0
    batch.add("a", [OPEN, OPEN], SamplingParameters(2, 4, 8))
    batch.add("b", [OPEN], SamplingParameters(1, 1, 8))
    assert len(batch) == 5
    batch.remove("a")
    batch.remove("b")
    assert len(batch) == 0 and batch.step() == [] and denoiser.shapes == []


def test_nothing_to_fill_in_is_done_at_the_next_step(process: str) -> None:
    denoiser = NeighbourDenoiser(VOCAB)
    batch = Batch(denoiser, make_scheduler(process))
    for key in ("stays", "leaves"):
        assert batch.add(key, [5, 0, 1], SamplingParameters(3, 2, 8)) == [[5, 0, 1]] * 2
    batch.remove("leaves")
    (update,) = batch.step()
    assert (update.key, update.changes, update.blocks, update.nfe) == ("stays", [], [], 0)
    assert update.result == Result([[5, 0, 1]] * 2, [[0, 0, 0]] * 2, 0, 0, 3, 0)
    assert update.t == 0
    assert batch.step() == [] and denoiser.shapes == []


def test_a_sample_is_the_same_however_many_are_drawn(process: str) -> None:
    scheduler = make_scheduler(process)
    requests = [Request([OPEN] * 9, SamplingParameters(9, count, 12, seed=5)) for count in (1, 2, 7)]
    one, two, seven = alone(NeighbourDenoiser(VOCAB), scheduler, requests).values()
    assert seven.result.tokens[:2] == two.result.tokens
    assert two.result.tokens[:1] == one.result.tokens
    assert seven.result.step_map[:1] == one.result.step_map
    assert len({tuple(row) for row in seven.result.tokens}) == 7


def test_the_initial_state_is_the_callers_own(process: str) -> None:
    batch = Batch(NeighbourDenoiser(VOCAB), make_scheduler(process))
    initial = batch.add(0, [2, OPEN, OPEN], SamplingParameters(3, 2, 4))
    assert all(row[0] == 2 for row in initial)
    if process == "uniform":
        assert all(MASK not in row for row in initial)
    else:
        assert initial == [[2, MASK, MASK]] * 2
    kept = [list(row) for row in initial]
    initial[0][0] = 6
    while len(batch):
        (update,) = batch.step()
    assert update.result is not None and update.result.tokens[0][0] == 2
    assert kept[1] == initial[1]


@pytest.mark.parametrize(
    ("tokens", "seq_len", "message"),
    [
        ([OPEN] * 3, 2, "tokens must have seq_len = 2 entries, got 3"),
        ([OPEN], 2, "tokens must have seq_len = 2 entries, got 1"),
        ([], 2, "tokens must have seq_len = 2 entries, got 0"),
        ([OPEN, 7], 2, "tokens must be below vocab_size = 7, got 7"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(process: str, tokens: list[int], seq_len: int, message: str) -> None:
    batch = Batch(NeighbourDenoiser(VOCAB), make_scheduler(process))
    with pytest.raises(ParameterError, match=message):
        batch.add(0, tokens, SamplingParameters(seq_len, 1, 4))
    assert len(batch) == 0 and batch.step() == []


@pytest.mark.parametrize("n", [5000, 2**20 - 1])
def test_a_fine_grid_costs_absorbing_no_more_than_its_masks(n: int) -> None:
    request = Request([OPEN] * 6, SamplingParameters(6, 2, n, block_size=3))
    result = drive(Batch(NeighbourDenoiser(VOCAB), make_scheduler("absorbing")), [request], {0: 0})[0].result
    assert result.nfe <= 6 and result.nfe + result.forwards_skipped == 2 * n


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uniform", "hybrid"])
def test_a_fine_grid_is_mostly_passed_over(name: str) -> None:
    request = Request([OPEN] * 4, SamplingParameters(4, 1, 5000, seed=2))
    history = drive(Batch(NeighbourDenoiser(VOCAB), make_scheduler(name)), [request], {0: 0})[0]
    assert history.updates[-1].step == 5000
    assert history.result.nfe < 300 and history.result.nfe + history.result.forwards_skipped == 5000


@pytest.mark.parametrize("length", [9, 300])
def test_rows_for_which_there_is_no_memory_leave_no_trace(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a lane where there are others nor in one of their own."""
    requests = [Request([OPEN] * 9, SamplingParameters(9, 8, 5, seed=1))]
    scheduler = make_scheduler("absorbing")
    batch = Batch(NeighbourDenoiser(VOCAB), scheduler)
    histories = {0: History(batch.add(0, requests[0].tokens, requests[0].parameters), [])}

    def put(self: Table, rows: Rows) -> None:
        raise RuntimeError("you tried to allocate too many bytes")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Table, "put", put)
        batch.add("large", [OPEN] * length, SamplingParameters(length, 16, 5))
    assert len(batch) == 8
    while not batch.idle:
        record(histories, batch.step())
    assert histories == alone(NeighbourDenoiser(VOCAB), scheduler, requests)


@pytest.mark.parametrize("determinism", ["fast", "exact"])
def test_beside_a_network_with_threads_of_its_own_torch_computes_on_one(determinism: Determinism) -> None:
    class Elsewhere(CallableDenoiser):
        own_threads = True

    seen = []

    def network(tokens: Tensor, t: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        return torch.zeros(*tokens.shape, 5)

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for denoiser in (Elsewhere(network), CallableDenoiser(network)):
            batch = Batch(denoiser, TokenDiffusionScheduler(5, 4), determinism=determinism)
            batch.add(0, [OPEN] * 4, SamplingParameters(4, num_inference_steps=2))
            batch.step()
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 3]
