"""Shares, quantiles, means and paired differences against values that others published or that are counted by hand."""

import random

import pytest

from moderation.intervals import Paired, Share, mean, quantile


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [
        pytest.param(8, 10, 0.4902, 0.9433, id="eight of ten"),
        pytest.param(0, 10, 0.0, 0.2775, id="none"),
        pytest.param(10, 10, 0.7225, 1.0, id="all"),
        pytest.param(1, 1, 0.2065, 1.0, id="one of one says little"),
        pytest.param(81, 263, 0.2553, 0.3662, id="Newcombe 1998, table I"),
        pytest.param(15, 148, 0.0624, 0.1605, id="Newcombe 1998, table I again"),
        pytest.param(0, 20, 0.0, 0.1611, id="Newcombe 1998, none of twenty"),
        pytest.param(1, 29, 0.0061, 0.1718, id="Newcombe 1998, one of 29"),
    ],
)
def test_intervals_of_shares_are_wilsons(count: int, of: int, low: float, high: float) -> None:
    share = Share(count, of)

    assert share.low == pytest.approx(low, abs=1e-4)
    assert share.high == pytest.approx(high, abs=1e-4)


def test_a_share_of_nothing_is_none() -> None:
    share = Share(0, 0)

    assert (share.share, share.low, share.high) == (None, None, None)


@pytest.mark.parametrize(
    ("only_first", "only_second", "exact", "mid"),
    [
        # Fagerland, Lydersen & Laake 2013, table 1: airway hyper-responsiveness before and after a transplant.
        pytest.param(1, 7, 0.0703, 0.0391, id="Fagerland 2013, 1 against 7"),
        pytest.param(0, 1, 1.0, 0.5, id="one difference says nothing"),
        pytest.param(0, 5, 0.0625, 0.03125, id="five to none: 2/32, 1/32"),
        pytest.param(3, 3, 1.0, 1.0, id="even"),
        pytest.param(4, 4, 1.0, 1.0, id="even again"),
        pytest.param(2, 8, 112 / 1024, 67 / 1024, id="by hand: 2·(1+10+45), less 45"),
        pytest.param(6, 16, 0.052479, 0.034690, id="Fagerland 2017, chapter 8: consolidation therapy"),
    ],
)
def test_mcnemars_test_has_the_published_values(
    only_first: int, only_second: int, exact: float, mid: float
) -> None:
    one = Paired(1000, only_first, only_second)
    other = Paired(1000, only_second, only_first)

    assert (one.exact_p, one.mid_p) == (pytest.approx(exact, abs=5e-5), pytest.approx(mid, abs=5e-5))
    assert (other.exact_p, other.mid_p) == (one.exact_p, one.mid_p)


def test_two_that_never_differ_are_not_tested() -> None:
    pair = Paired(50, 0, 0)

    assert (pair.exact_p, pair.mid_p) == (None, None)


def test_many_differences_are_tested_like_the_normal_distribution_says() -> None:
    pair = Paired(50_000, 9_800, 10_200)  # z = 400 / sqrt(20,000) = 2.828: p = 0.00468

    assert pair.mid_p == pytest.approx(0.00468, abs=2e-4)
    assert Paired(50_000, 0, 20_000).exact_p == 0.0


@pytest.mark.parametrize(
    ("n", "only_first", "only_second", "low", "high"),
    [
        pytest.param(161, 16, 6, -0.1195, -0.0032, id="Fagerland 2017, chapter 8: consolidation therapy"),
        pytest.param(161, 6, 16, 0.0032, 0.1195, id="the other way round"),
        pytest.param(48, 4, 26, 0.2548, 0.6252, id="the example of the R package statpsych"),
    ],
)
def test_the_difference_of_two_has_the_published_interval(
    n: int, only_first: int, only_second: int, low: float, high: float
) -> None:
    difference = Paired(n, only_first, only_second).difference

    assert difference is not None
    assert difference.value == (only_second - only_first) / n
    assert (difference.low, difference.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_of_nothing_there_is_no_difference_no_mean_and_no_quantile() -> None:
    assert Paired(0, 0, 0).difference is None
    assert mean([]) is None
    assert quantile([], 0.5) is None


def test_a_mean_has_an_interval_once_there_are_enough() -> None:
    few, many = mean([1.0, 2.0, 3.0]), mean([0.0, 1.0] * 50)

    assert few is not None
    assert (few.value, few.low, few.high) == (2.0, None, None)
    assert many is not None
    assert many.value == 0.5
    assert many.low == pytest.approx(0.5 - 1.959964 * 0.50252 / 10, abs=1e-4)
    assert many.high == pytest.approx(0.5 + 1.959964 * 0.50252 / 10, abs=1e-4)


def test_quantiles_are_interpolated_and_their_intervals_are_values_of_the_sample() -> None:
    # Ranks 15 · 0.75 ± 1.96 · √(15 · 0.75 · 0.25), rounded up: the 8th and the 15th.
    hours = [46.9, 47.2, 49.1, 56.5, 56.8, 59.2, 59.9, 63.2, 63.3, 63.4, 63.7, 64.1, 67.1, 67.7, 73.3]

    quartile = quantile(hours, 0.75)

    assert quartile is not None
    assert quartile.value == pytest.approx(63.9)  # as numpy.quantile
    assert (quartile.low, quartile.high) == (hours[7], hours[14])


def test_the_end_of_an_interval_that_lies_outside_of_the_sample_is_not_known() -> None:
    last = quantile([1.0, 2.0, 3.0], 0.95)
    only = quantile([4.0], 0.5)

    assert last is not None
    assert only is not None
    assert (last.value, last.high) == (pytest.approx(2.9), None)
    assert (only.value, only.low, only.high) == (4.0, None, None)


def test_the_intervals_hold_in_95_of_100_samples() -> None:
    draw = random.Random(5)
    trials = 600
    held = {"median": 0, "mean": 0, "share": 0, "difference": 0}

    for _ in range(trials):
        values = sorted(draw.expovariate(1.0) for _ in range(200))
        middle, centre = quantile(values, 0.5), mean(values)
        assert middle is not None
        assert centre is not None
        held["median"] += (middle.low or 0) <= 0.693147 <= (middle.high or 0)
        held["mean"] += (centre.low or 0) <= 1.0 <= (centre.high or 0)
        share = Share(sum(draw.random() < 0.3 for _ in range(200)), 200)
        held["share"] += (share.low or 0) <= 0.3 <= (share.high or 0)
        first = sum(draw.random() < 0.1 for _ in range(200))
        second = sum(draw.random() < 0.15 for _ in range(200 - first))
        difference = Paired(200, first, second).difference
        assert difference is not None
        held["difference"] += (difference.low or 0) <= 0.9 * 0.15 - 0.1 <= (difference.high or 0)

    assert all(0.92 <= count / trials <= 0.98 for count in held.values()), held
