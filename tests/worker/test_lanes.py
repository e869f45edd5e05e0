from moderation.dispatch import ANALYSIS_QUEUE, BACKFILL_QUEUE, LANES, QUESTION_QUEUE, RERUN_QUEUE
from moderation.triage import Lane, lane_of
from worker.lanes import BACK_EVERY, LaneCycle


def _take(cycle: LaneCycle, waiting: dict[str, int]) -> str:
    """What a worker takes next when so many messages wait on each queue."""
    first = next(name for name in cycle.consume(len(LANES)) if waiting[name])
    waiting[first] -= 1
    cycle.rotate(first)
    return first


def test_live_goes_before_backfill_and_backfill_never_starves() -> None:
    cycle = LaneCycle([BACKFILL_QUEUE, QUESTION_QUEUE, ANALYSIS_QUEUE])
    waiting = {QUESTION_QUEUE: 0, ANALYSIS_QUEUE: 10_000, BACKFILL_QUEUE: 10_000}

    taken = [_take(cycle, waiting) for _ in range(10 * BACK_EVERY)]

    assert taken.count(ANALYSIS_QUEUE) == 10 * (BACK_EVERY - 1)
    assert taken.count(BACKFILL_QUEUE) == 10


def test_a_question_is_behind_no_case() -> None:
    cycle = LaneCycle([BACKFILL_QUEUE, QUESTION_QUEUE, ANALYSIS_QUEUE])

    assert _take(cycle, {QUESTION_QUEUE: 1, ANALYSIS_QUEUE: 9, BACKFILL_QUEUE: 9}) == QUESTION_QUEUE


def test_what_is_analysed_once_more_is_behind_everything() -> None:
    cycle = LaneCycle(LANES)
    waiting = {QUESTION_QUEUE: 1, ANALYSIS_QUEUE: 10, BACKFILL_QUEUE: 20, RERUN_QUEUE: 9}

    taken = [_take(cycle, waiting) for _ in range(40)]

    assert set(taken[31:]) == {RERUN_QUEUE}
    assert RERUN_QUEUE not in taken[:31]


def test_backfill_has_everything_while_nothing_live_waits() -> None:
    cycle = LaneCycle([ANALYSIS_QUEUE, BACKFILL_QUEUE])
    waiting = {ANALYSIS_QUEUE: 0, BACKFILL_QUEUE: 50}

    assert {_take(cycle, waiting) for _ in range(50)} == {BACKFILL_QUEUE}


def test_the_lane_is_in_the_priority() -> None:
    assert [lane_of(priority) for priority in (0, 9, 10, 100)] == [
        Lane.BACKFILL,
        Lane.BACKFILL,
        Lane.LIVE,
        Lane.LIVE,
    ]
