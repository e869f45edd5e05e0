"""A certificate promises no more than its labels bear out, and says why when there is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from moderation.evidence.certify import GRID, BlindSample, Promise, Zone, certify, holds, inside, needed
from moderation.intervals import at_most


def judged(score: float, *, deepfake: bool = False, telling: bool = True) -> BlindSample:
    return BlindSample(score, deepfake and telling, not deepfake and telling)


@pytest.mark.slow
@given(st.integers(1, 5000), st.floats(0, 1), st.floats(1e-4, 0.4))
@settings(max_examples=200, deadline=None)
def test_the_bound_is_that_of_clopper_and_pearson(of: int, part: float, doubt: float) -> None:
    count = min(of - 1, int(part * of), 300)

    assert at_most(count, of, doubt) == pytest.approx(beta.ppf(1 - doubt, count + 1, of - count), rel=1e-9)


@pytest.mark.parametrize(("count", "of"), [(0, 0), (3, 3)])
def test_of_nothing_and_of_errors_alone_nothing_is_bounded(count: int, of: int) -> None:
    assert at_most(count, of, 0.05) == 1.0


def test_the_promise_is_that_of_a_test_corrected_for_all_thresholds() -> None:
    """The same threshold passes by the bound and by the binomial tail."""
    cases = [judged(0.01)] * 720 + [judged(0.01, deepfake=True)] + [judged(0.9, deepfake=True)] * 50
    promise = Promise(error=0.01)

    found = certify(cases, promise)

    assert found.certified is not None
    assert (found.certified.n, found.certified.errors) == (721, 1)
    p = binom.cdf(1, 721, promise.error)
    assert (found.certified.bound <= promise.error) == (p <= promise.doubt / len(GRID))


def test_the_widest_zone_that_keeps_the_promise_is_taken() -> None:
    cases = [judged(0.01)] * 600 + [judged(0.12)] * 400 + [judged(0.25, deepfake=True)] * 40

    found = certify(cases, Promise(error=0.01))

    assert found.certified is not None
    assert (found.certified.threshold, found.certified.n) == (0.15, 1000)


def test_who_cannot_tell_counts_against() -> None:
    sure = [judged(0.01)] * 600
    doubtful = sure[:-10] + [judged(0.01, telling=False)] * 10

    assert certify(sure, Promise(error=0.01)).certified is not None
    assert certify(doubtful, Promise(error=0.01)).certified is None


def test_too_few_labels_are_refused_with_the_number_that_suffices() -> None:
    promise = Promise(error=0.01)
    enough = needed(promise)

    assert certify([judged(0.01)] * enough, promise).certified is not None
    refused = certify([judged(0.01)] * (enough - 1), promise)
    assert refused.certified is None
    assert str(enough) in refused.refused


def test_hard_cases_that_are_left_undecided_hold_it_up() -> None:
    found = certify([judged(0.01)] * 900, Promise(error=0.01), undecided=100)

    assert found.certified is None
    assert "100 of 1000" in found.refused


def test_the_likely_zone_is_the_other_end() -> None:
    cases = [judged(0.99, deepfake=True)] * 600 + [judged(0.01)] * 600

    found = certify(cases, Promise(Zone.LIKELY, error=0.01))

    assert found.certified is not None
    # Of zones that hold the same cases the narrowest is promised: nothing is known of what would lie beyond.
    assert found.certified.threshold == 0.98
    assert inside(Zone.LIKELY, 0.99, found.certified.threshold)
    assert not inside(Zone.LIKELY, 0.01, found.certified.threshold)


@pytest.mark.parametrize(
    ("n", "errors", "stands"),
    [
        pytest.param(299, 0, True, id="no error in enough"),
        pytest.param(298, 0, False, id="too few left to say"),
        pytest.param(299, 1, False, id="an error"),
        pytest.param(473, 1, True, id="an error in many"),
    ],
)
def test_a_certificate_stands_while_the_bound_holds(n: int, errors: int, *, stands: bool) -> None:
    assert holds(n, errors, Promise(error=0.01)) is stands
