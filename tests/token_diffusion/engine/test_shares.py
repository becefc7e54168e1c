"""Shares on a machine that only counts seconds: whoever comes, nobody starves, shares are equal, and no room is left empty."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from token_diffusion.engine.cost import Cost
from token_diffusion.engine.shares import Shares
from token_diffusion.engine.standing import Client, Line, Share

FOREVER = 10**9


@dataclass
class Machine:
    """Rows of requests, stepped as `shares` says, in seconds of `cost`. steps: of all rows of a request."""

    cost: Cost = field(default_factory=lambda: Cost(100.0, 1.0))
    max_tokens: int = 2048
    shares: Shares = field(default_factory=Shares)
    lines: dict[int, Line] = field(default_factory=dict)
    left: dict[Share, int] = field(default_factory=dict)
    steps: Counter[Share] = field(default_factory=Counter)
    now: float = 0.0
    owed: bool = False
    """the one whose tick it was paid for more than its own rows"""

    def join(
        self, client: str, length: int, rows: int = 1, steps: int = FOREVER, lane: int = 0, weight: float = 1.0
    ) -> Share:
        """A request each of whose rows needs so many steps."""
        line = self.lines.setdefault(lane, Line(self.cost, self.max_tokens))
        share = self.shares.join(line, rows, length, rows * steps * length, client, weight)
        self.left[share] = rows * steps
        return share

    def leave(self, share: Share) -> None:
        if self.left.pop(share, None) is not None:
            self.shares.leave(share)

    def tick(self) -> list[tuple[Share, int]]:
        """One forward pass; a request's rows leave together, when it has had all its steps."""
        leader = self.shares.turn()
        if leader is None:
            return []
        each = self.cost.token * leader.length + self.cost.fixed / min(leader.line.takes(leader.length), leader.rows)
        before = leader.v
        chosen = self.shares.choose(leader)
        self.owed = leader.v - before > dict(chosen)[leader] * each * (1 + 1e-9)
        self.now += self.seconds(chosen)
        for share, rows in chosen:
            self.steps[share] += rows
            self.left[share] -= rows
            if self.left[share] <= 0:
                self.leave(share)
        return chosen

    def seconds(self, chosen: list[tuple[Share, int]]) -> float:
        return self.cost.of(sum(rows for _, rows in chosen) * max(share.length for share, _ in chosen))

    def alone(self, share: Share, ticks: int = 200) -> float:
        """Steps a second of such a request on a machine of its own."""
        machine = Machine(self.cost, self.max_tokens)
        twin = machine.join("alone", share.length, share.rows)
        for _ in range(ticks):
            machine.tick()
        return machine.steps[twin] / machine.now

    @property
    def clients(self) -> set[Client]:
        return {share.client for share in self.left}


def test_one_row_beside_sixty_four_greedy_ones_takes_twice_its_time_alone() -> None:
    machine = Machine()
    greedy = [machine.join("greedy", 64) for _ in range(64)]
    for _ in range(20):
        machine.tick()
    one, began = machine.join("one", 64, steps=64), machine.now
    while one in machine.left:
        machine.tick()
    assert machine.now - began <= 2.5 * 64 * (100 + 64)
    steps = [machine.steps[share] for share in greedy]
    assert max(steps) - min(steps) <= 2


def test_equal_clients_share_each_pass() -> None:
    machine = Machine()
    for index in range(32):
        machine.join(f"client{index}", 64)
    for _ in range(50):
        assert [rows for _, rows in machine.tick()] == [1] * 32


def test_equal_requests_of_one_client_fill_each_pass() -> None:
    machine = Machine(max_tokens=640)
    for _ in range(25):
        machine.join("one", 64)
    counts = Counter(len(machine.tick()) for _ in range(100))
    assert counts == {10: 100} and max(machine.steps.values()) - min(machine.steps.values()) <= 1


@pytest.mark.parametrize("fixed", [0.0, 100.0, 25_000.0])
def test_lanes_and_sizes_do_not_matter_to_time(fixed: float) -> None:
    """Two clients, one of few and short rows, one of many and long ones: each has half of what it has alone, or more."""
    machine = Machine(Cost(fixed, 1.0))
    small, large = machine.join("small", 40, lane=0), machine.join("large", 500, rows=16, lane=1)
    for _ in range(2000):
        machine.tick()
    for share in (small, large):
        assert machine.steps[share] / machine.now == pytest.approx(machine.alone(share) / 2, rel=0.05)


def test_weights_are_kept_to() -> None:
    machine = Machine()
    light, heavy = machine.join("light", 512, lane=0), machine.join("heavy", 512, lane=1, weight=3.0)
    for _ in range(400):
        machine.tick()
    assert machine.steps[heavy] == pytest.approx(3 * machine.steps[light], abs=4)


def test_many_small_requests_get_a_client_no_more_than_one_large() -> None:
    machine = Machine()
    patient = machine.join("patient", 512, lane=1)
    splitting, done = machine.join("splits", 512, steps=1), 0
    for _ in range(400):
        machine.tick()
        if splitting not in machine.left:
            splitting, done = machine.join("splits", 512, steps=1), done + 1
    assert done <= machine.steps[patient] + 6, "that it is gone for a moment is forgotten too soon"


def test_who_was_away_has_no_credit() -> None:
    machine = Machine()
    stays = machine.join("stays", 512, lane=1)
    for _ in range(100):
        machine.tick()
    before, late = machine.steps[stays], machine.join("late", 512)
    for _ in range(40):
        machine.tick()
    assert abs(machine.steps[late] - (machine.steps[stays] - before)) <= 3


def test_a_thousand_requests_do_not_make_a_tick_slow() -> None:
    """What it costs to choose follows from the rows in the pass; beside ten requests it takes about as long."""

    def seconds(requests: int, clients: int) -> float:
        machine = Machine()
        for index in range(requests):
            machine.join(f"client{index % clients}", 64)
        for _ in range(3 * requests // 32 + 3):
            machine.tick()
        took = []
        for _ in range(60):
            began = time.perf_counter()
            machine.tick()
            took.append(time.perf_counter() - began)
        return sorted(took)[10]

    for clients in (1, 33, 1000):
        assert seconds(1000, clients) <= 8 * seconds(40, min(clients, 40))


REQUESTS = st.fixed_dictionaries(
    {
        "client": st.sampled_from("abcd"),
        "length": st.integers(1, 300),
        "rows": st.integers(1, 20),
        "steps": st.one_of(st.integers(1, 20), st.just(FOREVER)),
        "lane": st.integers(0, 2),
    }
)
EVENTS = st.lists(st.one_of(REQUESTS, st.integers(1, 25), st.just("leaves")), min_size=1, max_size=25)
MACHINES = st.builds(
    Machine,
    cost=st.builds(Cost, fixed=st.sampled_from([0.0, 100.0, 5000.0]), token=st.just(1.0)),
    max_tokens=st.sampled_from([64, 300, 2048]),
)
WEIGHTS = {"a": 1.0, "b": 1.0, "c": 0.5, "d": 3.0}


def largest_pass(machine: Machine) -> float:
    """How far anybody may be ahead: two passes for a newcomer that goes first, its own pass, and a lone row's slack."""
    return 3 * machine.cost.of(max(machine.max_tokens, 300)) + machine.cost.of(300)


def follow(machine: Machine, events: list[object]) -> Iterator[None]:
    """The machine through joins, leaves and ticks; stops after each tick, which is checked."""
    for event in [*events, 30]:
        if isinstance(event, dict):
            machine.join(**event, weight=WEIGHTS[event["client"]])
        elif event == "leaves" and machine.left:
            machine.leave(next(iter(machine.left)))
        elif isinstance(event, int):
            for _ in range(event):
                check_tick(machine)
                yield


def check_tick(machine: Machine) -> None:
    """A pass fits, is paid for in full, and leaves no room that somebody could have used who is behind all others."""
    everybody = list(machine.left)
    before = {client: client.v for client in machine.clients}
    began = machine.now
    chosen = machine.tick()
    assert bool(chosen) == bool(everybody)
    if not chosen:
        return
    rows, width = sum(rows for _, rows in chosen), max(share.length for share, _ in chosen)
    assert rows == 1 or rows * width <= machine.max_tokens
    line = chosen[0][0].line
    assert all(share.line is line and rows >= 1 for share, rows in chosen) and len(dict(chosen)) == len(chosen)
    charged = sum((client.v - v) * client.weight for client, v in before.items())
    assert charged >= (machine.now - began) * (1 - 1e-6), "a second of the machine that nobody was charged for"
    least = min(client.v for client in before)
    for share in everybody:
        is_least = share.v <= min(other.v for other in everybody if other.client is share.client)
        if share.line is line and share.client.v <= least and is_least and not machine.owed:
            fits = (rows + 1) * max(width, share.length) <= machine.max_tokens
            assert not fits or share.rows <= dict(chosen).get(share, 0), "it has had least, and there was room for it"


@settings(deadline=None, max_examples=150)
@given(machine=MACHINES, events=EVENTS)
def test_nobody_gets_far_ahead_and_no_second_is_lost(machine: Machine, events: list[object]) -> None:
    """So over any interval in which two clients have rows they get the same, by their weights, within twice this bound."""
    bound = largest_pass(machine)
    for _ in follow(machine, events):
        for client in machine.clients:
            least = min(other.v for other in machine.clients)
            assert (client.v - least) * min(client.weight, 1.0) <= bound
            own = [share.v for share in machine.left if share.client is client]
            assert max(own) - min(own) <= bound


@settings(deadline=None, max_examples=100)
@given(machine=MACHINES, requests=st.lists(REQUESTS, min_size=2, max_size=8))
def test_nobody_waits_for_longer_than_the_others_may_be_ahead(
    machine: Machine, requests: list[dict[str, object]]
) -> None:
    """And each client gets its share of what it has alone, or more, once that is more than a few passes."""
    for request in requests:
        machine.join(**(request | {"steps": FOREVER, "weight": WEIGHTS[str(request["client"])]}))  # type: ignore[arg-type]
    bound, clients = largest_pass(machine), machine.clients
    weights = sum(client.weight for client in clients)
    served = {share: [0.0] for share in machine.left}
    for _ in range(400):
        for share, _ in machine.tick():
            served[share].append(machine.now)
    for share, times in served.items():
        mine = [other for other in machine.left if other.client is share.client]
        # Its client's others may be ahead by the bound, and for each second of that client there are those of all others.
        patience = (len(mine) + 1) * bound * (weights / share.client.weight + len(clients)) + bound
        assert max(after - before for before, after in pairwise([*times, machine.now])) <= patience
    for client in clients:
        assert client.v * client.weight >= machine.now * client.weight / weights - 2 * bound * weights


def test_a_newcomer_has_a_step_within_three_ticks_whatever_the_load() -> None:
    machine = Machine(max_tokens=256)
    for index in range(12):
        machine.join(f"client{index % 3}", 64 * (index % 4 + 1), rows=1 + index % 5, lane=index % 4)
    for _ in range(30):
        machine.tick()
    for index in range(40):
        newcomer = machine.join(f"client{index % 5}", 32, steps=3, lane=4 + index % 2)
        waited = next(tick for tick in range(1, 10) if any(share is newcomer for share, _ in machine.tick()))
        assert waited <= 2, "the tick that is under way when it comes is the third"


def test_newcomers_do_not_keep_others_from_their_steps() -> None:
    machine = Machine()
    old = machine.join("old", 300, lane=1)
    for index in range(100):
        machine.join(f"new{index}", 32, steps=1)
        machine.tick()
    assert machine.steps[old] >= 30


def test_a_cost_is_found_by_measuring() -> None:
    cost = Cost(2e-3, 2e-5)
    for index in range(400):
        tokens = 64 * (1 + index * 7 % 32)
        cost.observe(tokens, (0.03 if index % 50 == 3 else 0.0) + 4e-4 + 1e-5 * tokens)
    assert cost.fixed == pytest.approx(4e-4, rel=1.0) and cost.token == pytest.approx(1e-5, rel=0.1)


def test_passes_of_one_size_keep_the_ratio_and_correct_the_scale() -> None:
    cost = Cost(2e-3, 2e-5)
    for _ in range(100):
        cost.observe(1000, 0.011)
    assert cost.of(1000) == pytest.approx(0.011) and cost.fixed / cost.token == pytest.approx(100, rel=0.01)


def test_no_measurement_makes_a_part_of_a_cost_negative() -> None:
    cost = Cost(2e-3, 2e-5)
    for index in range(300):
        tokens = 64 * (1 + index % 32)
        cost.observe(tokens, 1e-7 * tokens**2 if index < 100 else 1.0 / tokens if index < 200 else 0.0)
        assert cost.fixed >= 0 and cost.token > 0 and math.isfinite(cost.of(2048))
