from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import APIError
from server.owners.owner import Owner
from server.owners.quotas import BURST_S, Quotas

SLOW = Owner("key:slow", "slow", work_per_s=10.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(quotas: Quotas, owner: Owner, work: float) -> int:
    """Seconds that `owner` is told to wait, 0 if it need not."""
    try:
        quotas.take(owner, work)
    except APIError as error:
        assert (error.status_code, error.event.error.type) == (429, "rate_limited")
        assert error.headers is not None
        return int(error.headers["Retry-After"])
    return 0


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    quotas = Quotas(clock)
    quotas.take(SLOW, 10 * BURST_S)
    with pytest.raises(APIError) as caught:
        quotas.take(SLOW, 25)
    assert caught.value.event.error.message == "slow may ask for 10 token passes a second; try again in 3 s"
    clock.now += 2
    assert refusal(quotas, SLOW, 25) == 1
    clock.now += 1
    assert refusal(quotas, SLOW, 25) == 0


def test_what_is_dearer_than_a_burst_is_let_through_and_paid_for() -> None:
    clock = Clock()
    quotas = Quotas(clock)
    assert refusal(quotas, SLOW, 10 * BURST_S + 500) == 0
    assert refusal(quotas, SLOW, 10) == 51  # 50 of debt, and one for this
    clock.now += 51
    assert refusal(quotas, SLOW, 10) == 0


def test_others_are_not_concerned() -> None:
    quotas = Quotas(Clock())
    quotas.take(SLOW, 10**9)
    assert refusal(quotas, Owner("key:other", "other", work_per_s=10.0), 10) == 0
    for _ in range(3):
        assert refusal(quotas, Owner("address:a", "a"), 10**9) == 0


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 2000)), max_size=60))
def test_nobody_gets_more_than_the_rate_and_who_waits_as_told_is_let_through(asked: list[tuple[float, int]]) -> None:
    clock = Clock()
    quotas, start, taken = Quotas(clock), clock.now, 0.0
    for pause, work in asked:
        clock.now += pause
        wait = refusal(quotas, SLOW, work)
        if wait:
            clock.now += wait
            assert refusal(quotas, SLOW, work) == 0
        assert taken <= 10 * (clock.now - start + BURST_S) + 1e-6  # what came before it was within the rate
        taken += work
