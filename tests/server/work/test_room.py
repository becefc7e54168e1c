"""How much may be outstanding: one client gets half, whoever comes finds room, and nobody shuts the door."""

from __future__ import annotations

import pytest

from server.errors import APIError
from server.owners.owner import Owner
from server.work.rate import Rate
from server.work.room import LONGEST_RETRY_S, Bounds, Room

SECONDS = 60.0
PER_S = 1000.0


def make_room(bounds: Bounds | None = None, **rates: float) -> Room:
    return Room(bounds or Bounds(SECONDS), {name: Rate(rate) for name, rate in ({"m": PER_S} | rates).items()})


def owner(name: object, weight: float = 1.0) -> Owner:
    return Owner(f"address:{name}", str(name), weight)


def fill(room: Room, who: Owner, work: int, tokens: int = 1, most: int = 10_000) -> int:
    """How often so much is taken."""
    for number in range(most):
        try:
            room.check(who, {"m": work}, tokens)
        except APIError as error:
            assert error.status_code == 429
            return number
        room.add(who, "m", work, tokens)
    return most


def test_one_client_gets_half_and_the_next_half_of_what_is_left() -> None:
    room = make_room()
    counts = [fill(room, owner(name), 100) for name in range(5)]
    assert counts[0] == SECONDS * PER_S / 100 / 2
    assert counts[1] == counts[0] / 2 and all(count > 0 for count in counts)
    assert room.work == 100 * sum(counts) <= SECONDS * PER_S


def test_whoever_comes_finds_room_for_something_small() -> None:
    room = make_room()
    for name in range(200):
        assert fill(room, owner(name), 1, most=1) == 1
        fill(room, owner(name), 1 + 20_000 // (name + 1))
    room.check(owner("last"), {"m": 1}, 1)


def test_a_request_of_any_size_is_taken_where_nothing_is_outstanding_and_does_not_shut_the_door() -> None:
    room, huge = make_room(), int(1000 * SECONDS * PER_S)
    assert fill(room, owner("a"), huge) == 1, "and no second one of this client"
    assert fill(room, owner("b"), 100) > 100
    assert fill(room, owner("c"), huge) == 1
    room.check(owner("d"), {"m": 5000}, 1)
    for name in range(100):
        fill(room, owner(name), huge, most=1)
    room.check(owner("small"), {"m": 1}, 1)


def test_many_who_take_all_they_can_leave_a_newcomer_its_part() -> None:
    room, limit = make_room(), int(SECONDS * PER_S)
    for name in range(40):
        work = limit
        while not fill(room, owner(name), work, most=1):
            work //= 2
    room.check(owner("equal"), {"m": limit // 41}, 1)
    with pytest.raises(APIError, match="429"):
        room.check(owner("more"), {"m": limit // 4}, 1)


def test_weights_count() -> None:
    light, heavy = make_room(), make_room()
    assert fill(heavy, owner("a", 3.0), 100) == 3 * fill(light, owner("a", 1 / 3), 100)


def test_positions_are_shared_out_like_work() -> None:
    room = make_room(Bounds(SECONDS, tokens=1000))
    assert fill(room, owner("a"), 0, 10) == 50
    assert fill(room, owner("b"), 0, 10) == 25
    room.add(owner("a"), "m", 0, -400)
    room.check(owner("a"), {"m": 1}, 10)


def test_work_of_a_slow_model_counts_for_more() -> None:
    room = make_room(slow=PER_S / 10)
    room.add(owner("a"), "slow", 1000, 1)
    room.add(owner("a"), "m", 1000, 1)
    assert room.seconds([{"slow": 1000, "m": 1000}]) == pytest.approx(11)
    assert 11 <= room.retry_after_s() <= 17
    limited = make_room(Bounds(work=1000), slow=1e-3)
    assert fill(limited, owner("a"), 100) == 5, "token passes are what they are, whatever they take"


def test_what_clients_are_told_is_spread_and_bounded() -> None:
    room = make_room()
    assert room.retry_after_s() == 1
    room.add(owner("a"), "m", 20_000, 1)
    told = {room.retry_after_s() for _ in range(300)}
    assert min(told) in (20, 21) and max(told) == 30
    room.add(owner("a"), "m", 10**9, 1)
    assert room.retry_after_s() == LONGEST_RETRY_S


def test_who_has_nothing_left_is_forgotten() -> None:
    room = make_room()
    room.add(owner("a"), "m", 500, 7)
    room.add(owner("a"), "m", -500, -7)
    assert room.work == 0 and not room._work and not room._tokens


def test_a_rate_is_that_of_busy_seconds_and_forgets() -> None:
    rate = Rate(1000.0)
    for _ in range(3):
        rate.observe(1, 100.0)
    assert rate.per_s == 1000, "the first steps warm up"
    for _ in range(2000):
        rate.observe(50, 0.1)
    assert rate.per_s == pytest.approx(500, rel=0.01)
    for _ in range(2000):
        rate.observe(500, 0.1)
    assert rate.per_s == pytest.approx(5000, rel=0.01)


def test_a_step_in_which_the_machine_slept_is_not_remembered_for_minutes() -> None:
    rate = Rate(1000.0)
    for _ in range(2000):
        rate.observe(100, 0.1)
    rate.observe(100, 3600.0)
    assert 800 < rate.per_s < 1000
    for _ in range(300):
        rate.observe(1000, 100.0)
    assert rate.per_s == pytest.approx(10, rel=0.01), "if all steps are long, it is what they get done"
