"""The numbers that training reports, on cases whose answer is known."""

import numpy as np
import pytest

from moderation.dfa.bench.estimates import auc, auc_estimate, blind_regions, macro_f1, region_f1


@pytest.mark.parametrize(
    ("scores", "positive", "expected"),
    [
        pytest.param([1, 2, 3, 4], [0, 0, 1, 1], 1.0, id="separated"),
        pytest.param([4, 3, 2, 1], [0, 0, 1, 1], 0.0, id="the wrong way round"),
        pytest.param([1, 1, 1, 1], [0, 1, 0, 1], 0.5, id="all tied"),
        pytest.param([1, 2, 2, 3], [0, 0, 1, 1], 0.875, id="one tie counts half"),
    ],
)
def test_auc(scores: list[float], positive: list[int], expected: float) -> None:
    assert auc(np.array(scores, float), np.array(positive)) == pytest.approx(expected)


def test_auc_without_both_labels_is_not_a_number() -> None:
    assert np.isnan(auc(np.array([1.0, 2.0]), np.array([1, 1])))


def test_the_interval_holds_the_value_and_narrows_with_n() -> None:
    rng = np.random.default_rng(0)

    def width(n: int) -> float:
        labels = rng.random(n) < 0.5
        result = auc_estimate(
            (rng.normal(0, 1, n) + labels).tolist(), labels.tolist(), [str(i) for i in range(n)]
        )
        assert result.low <= result.value <= result.high
        return result.high - result.low

    assert width(1000) < width(60)


def test_pairs_stay_together_in_the_interval() -> None:
    # Twenty copies of five pictures are five observations.
    scores, labels = [0.1, 0.9, 0.4, 0.6, 0.5] * 20, [False, True, False, True, True] * 20

    copied = auc_estimate(scores, labels, [str(i % 5) for i in range(100)])
    alone = auc_estimate(scores, labels, [str(i) for i in range(100)])

    assert copied.high - copied.low >= alone.high - alone.low


def test_an_unread_answer_is_wrong() -> None:
    assert macro_f1(["FS", "FE"], ["FS", None], ["FS", "FE"]) == pytest.approx(0.5)


def test_the_blind_answer_is_the_best_without_looking() -> None:
    truth = [{"mouth"}, {"mouth", "nose"}, {"mouth"}, {"eyes"}]

    blind = blind_regions(truth)

    assert blind == {"mouth"}
    assert region_f1(truth, [blind] * 4) == pytest.approx(6 / 9)
