import pytest

from moderation.analysis import Abstain, Verdict
from moderation.cases import Stage
from moderation.triage import QueueStats, head_start, postponed_for, retry_delay, uncertainty
from tests.builders import a_verdict, undecided


@pytest.mark.parametrize(
    ("attempt", "least", "most"),
    [(1, 0.5, 1), (2, 1, 2), (3, 2, 4), (9, 128, 256), (10, 150, 300), (100, 150, 300)],
)
def test_the_delay_doubles_up_to_five_minutes(attempt: int, least: float, most: float) -> None:
    assert retry_delay(attempt, random=0.0) == least
    assert retry_delay(attempt, random=1.0) == most


def test_what_failed_together_does_not_come_back_together() -> None:
    assert retry_delay(5, random=0.1) != retry_delay(5, random=0.2)


def test_delays_add_up_to_what_is_said() -> None:
    assert postponed_for(0, random=0.0) == 0
    assert postponed_for(10, random=0.0) == (511 + 300) / 2
    assert postponed_for(10, random=1.0) == 511 + 300


@pytest.mark.parametrize(
    ("stats", "wait"),
    [
        pytest.param(QueueStats(0, 0, 9, 0.0, 0.0), 0.0, id="an empty line"),
        pytest.param(QueueStats(95, 5, 9, 3.0, 10.0), 10.0, id="a hundred ahead at ten a second"),
        pytest.param(QueueStats(95, 5, 9, 3.0, 0.0), None, id="nobody works"),
    ],
)
def test_the_wait_is_what_is_ahead_over_the_rate(stats: QueueStats, wait: float | None) -> None:
    assert stats.estimated_wait_seconds == wait


@pytest.mark.parametrize(
    ("verdict", "least", "most"),
    [
        pytest.param(None, 1, 1, id="no analysis: only a person can tell"),
        pytest.param(undecided(Abstain.NO_FACE, score=None), 1, 1, id="the model was not asked"),
        pytest.param(a_verdict(score=0.5), 1, 1, id="in the middle"),
        pytest.param(a_verdict(score=0.95), 0.05, 0.15, id="nearly sure"),
        pytest.param(a_verdict(score=1.0), 0, 0, id="sure"),
        pytest.param(a_verdict(score=0.0), 0, 0, id="sure of the other"),
    ],
)
def test_a_person_says_most_where_the_model_cannot_tell(
    verdict: Verdict | None, least: float, most: float
) -> None:
    assert least <= uncertainty(verdict) <= most


def test_a_hundred_points_of_priority_are_worth_a_day() -> None:
    assert head_start(100, 0) - head_start(0, 0) == 86_400


def test_an_appeal_goes_before_an_escalation_and_both_before_a_first_look() -> None:
    starts = [head_start(5, 0.5, stage) for stage in (Stage.FIRST, Stage.ESCALATED, Stage.APPEAL)]

    assert starts == sorted(set(starts))
