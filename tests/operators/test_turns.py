"""The rule by which webhooks are sent: however many receivers are silent, none stands before one that answers."""

from uuid import UUID, uuid4

import pytest

from moderation.webhooks.turns import (
    SENDERS,
    SENDERS_EACH,
    SLOW_AFTER,
    SLOW_SENDERS,
    TRIES_AT_ONCE,
    Turns,
)

LATER = SLOW_AFTER * 1.01


def _answered(turns: Turns, endpoint: UUID, *, after: float, now: float = 0.0) -> None:
    turns.end(turns.begin(endpoint, now=now), answered_at=now + after)


def _begin_all(turns: Turns, endpoints: list[UUID], *, now: float) -> list[int]:
    """Begin what may begin, one try of each endpoint in this order, as long as there is room."""
    numbers: list[int] = []
    for endpoint in endpoints:
        turn = turns.next(now=now)
        if (turn.room and endpoint not in turn.wait) or (turn.slow_room and endpoint in turn.slow):
            numbers.append(turns.begin(endpoint, now=now))
    return numbers


def test_tries_that_turn_out_to_be_slow_make_room_for_others() -> None:
    turns = Turns()
    _begin_all(turns, [uuid4() for _ in range(SENDERS)], now=0.0)

    assert turns.next(now=0.0).room == 0
    assert turns.next(now=LATER).room == SENDERS


def test_endpoints_that_are_known_to_be_slow_take_no_room_of_others() -> None:
    turns, silent, healthy = Turns(), [uuid4() for _ in range(100)], uuid4()
    for endpoint in silent:
        _answered(turns, endpoint, after=10.0)

    begun = _begin_all(turns, [*silent, healthy], now=20.0)

    assert len(begun) == SLOW_SENDERS + 1
    assert turns.next(now=20.0).room == SENDERS - 1


def test_a_slow_endpoint_has_one_try_at_a_time() -> None:
    turns, silent = Turns(), uuid4()
    _answered(turns, silent, after=LATER)

    assert len(_begin_all(turns, [silent, silent], now=5.0)) == 1
    assert silent not in turns.next(now=5.0).slow
    assert silent in turns.next(now=5.0).wait


@pytest.mark.parametrize(
    ("before", "tries"),
    [
        pytest.param([], 1, id="one that has not answered yet"),
        pytest.param([0.1], SENDERS_EACH, id="one that answered quickly"),
        pytest.param([10.0, 0.1], SENDERS_EACH, id="one that is quick again"),
        pytest.param([0.1, 10.0], 1, id="one that is slow now"),
    ],
)
def test_how_many_tries_at_once_an_endpoint_has(before: list[float], tries: int) -> None:
    turns, endpoint = Turns(), uuid4()
    for seconds in before:
        _answered(turns, endpoint, after=seconds)

    assert len(_begin_all(turns, [endpoint] * 50, now=100.0)) == tries


def test_endpoints_that_nobody_knew_never_take_more_than_all_senders() -> None:
    turns = Turns()

    for second in range(100):
        _begin_all(turns, [uuid4() for _ in range(SENDERS)], now=second * LATER)

    assert (turns.next(now=200.0).room, turns.next(now=200.0).slow_room) == (0, 0)
    assert len(turns._running) == TRIES_AT_ONCE


def test_a_try_of_the_same_delivery_may_begin_again_before_the_first_has_ended() -> None:
    turns, endpoint = Turns(), uuid4()
    _answered(turns, endpoint, after=0.1)

    first, second = turns.begin(endpoint, now=1.0), turns.begin(endpoint, now=1.1)
    turns.end(first, answered_at=1.2)
    turns.end(second, answered_at=1.3)

    assert turns.next(now=2.0).room == SENDERS
