import time

import pytest

from moderation.analysis import Abstain
from tests.builders import a_face_analysis, bona_fide, undecided, with_verdict
from worker.breaker import Breaker

NONSENSE = [with_verdict(undecided(Abstain.UNPARSED)), with_verdict(undecided(Abstain.LOW_ANSWER_MASS))]


def test_so_many_failures_in_a_row_stop_the_work_and_say_why() -> None:
    breaker = Breaker(failures=3, pause_seconds=60)

    for _ in range(2):
        breaker.answered(NONSENSE)
    assert (breaker.allows(), breaker.why) == (True, None)
    breaker.failed("every analysis ends in a fault: KeyError")

    assert not breaker.allows()
    assert breaker.why == "every analysis ends in a fault: KeyError"


@pytest.mark.parametrize(
    "good",
    [
        pytest.param([with_verdict(bona_fide())], id="a verdict"),
        pytest.param([a_face_analysis(), *NONSENSE], id="one face of many"),
        pytest.param([with_verdict(undecided(Abstain.NEAR_THRESHOLD))], id="a model that cannot tell"),
    ],
)
def test_one_answer_between_them_starts_the_count_again(good: list[object]) -> None:
    breaker = Breaker(failures=2, pause_seconds=60)

    for _ in range(5):
        breaker.answered(NONSENSE)
        breaker.answered(good)  # pyright: ignore[reportArgumentType]

    assert breaker.allows()


def test_an_image_that_the_model_never_saw_says_nothing_of_it() -> None:
    breaker = Breaker(failures=1, pause_seconds=0.01)
    breaker.failed("a fault")

    breaker.answered([])

    assert breaker.why == "a fault"


def test_after_a_pause_one_case_is_tried_and_an_answer_resumes_the_work() -> None:
    breaker = Breaker(failures=1, pause_seconds=0.05)
    breaker.failed("a fault")

    time.sleep(0.06)
    assert [breaker.begins() for _ in range(3)] == [True, False, False]
    assert not breaker.allows()
    breaker.answered([with_verdict(bona_fide())])

    assert breaker.why is None
    assert [breaker.begins() for _ in range(3)] == [True] * 3


def test_looking_whether_a_case_may_be_taken_is_no_trial() -> None:
    breaker = Breaker(failures=1, pause_seconds=0.05)
    breaker.failed("a fault")

    time.sleep(0.06)

    assert [breaker.allows() for _ in range(3)] == [True] * 3
    assert breaker.begins()


def test_what_was_under_way_when_the_work_stopped_makes_the_pause_no_longer() -> None:
    breaker = Breaker(failures=1, pause_seconds=0.05)

    for _ in range(16):
        breaker.failed("a fault")

    time.sleep(0.06)
    assert breaker.begins()
