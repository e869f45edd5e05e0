from pathlib import Path

import numpy as np
import pytest

from moderation.analysis import Technique
from moderation.dfa.gpt.calibration import Platt, fit_platt, load_platt, save_platt, sigmoid
from moderation.dfa.gpt.scoring import Normalisation, technique_shares
from moderation.errors import BundleMismatch


def drawn(a: float, b: float, n: int, seed: int = 0) -> tuple[list[float], list[bool]]:
    """Margins, and labels that follow sigmoid(a · margin + b)."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(1.0, 3.0, n)
    labels = rng.random(n) < 1 / (1 + np.exp(-(a * margins + b)))
    return margins.tolist(), labels.tolist()


def test_the_fit_recovers_what_the_labels_were_drawn_from() -> None:
    margins, labels = drawn(0.6, -0.9, 20_000)

    fitted = fit_platt(margins, labels, version="x")

    assert fitted.a == pytest.approx(0.6, abs=0.03)
    assert fitted.b == pytest.approx(-0.9, abs=0.06)
    assert fitted.n == 20_000


def test_a_probability_is_a_probability_on_new_cases() -> None:
    margins, labels = drawn(0.6, -0.9, 1000, seed=1)
    fitted = fit_platt(margins, labels, version="x")

    new, truth = drawn(0.6, -0.9, 5000, seed=2)

    assert np.mean([fitted.probability(m) for m in new]) == pytest.approx(np.mean(truth), abs=0.03)


def test_separated_labels_end_in_a_finite_slope() -> None:
    fitted = fit_platt([-1.0] * 20 + [1.0] * 20, [False] * 20 + [True] * 20, version="x")

    assert 0 < fitted.a < 10
    assert fitted.probability(1.0) > 0.9


def test_calibration_never_changes_the_order() -> None:
    fitted = Platt(a=0.3, b=2.0, version="x", n=100, digest="")

    scores = [fitted.probability(m) for m in (-800.0, -3.0, 0.0, 2.0, 800.0)]

    assert scores == sorted(scores)
    assert scores[0] == pytest.approx(0.0)
    assert scores[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("margins", "labels"),
    [
        pytest.param([1.0] * 30, [True] * 30, id="one label alone"),
        pytest.param([1.0] * 30, [True] * 21 + [False] * 9, id="nine of one label"),
        pytest.param([1.0] * 30, [True] * 29, id="a label is missing"),
        pytest.param([float("nan")] * 30, [True] * 15 + [False] * 15, id="not a number"),
    ],
)
def test_too_little_to_fit_is_refused(margins: list[float], labels: list[bool]) -> None:
    with pytest.raises(ValueError, match=r"calibration needs|not a finite number"):
        fit_platt(margins, labels, version="x")


def test_a_fit_survives_its_file(tmp_path: Path) -> None:
    margins, labels = drawn(1.0, 0.0, 100)
    fitted = fit_platt(margins, labels, version="2026-11-23")

    save_platt(fitted, tmp_path / "calibration.json")

    assert load_platt(tmp_path / "calibration.json") == fitted


def test_a_file_that_is_no_fit_is_a_bundle_mismatch(tmp_path: Path) -> None:
    with pytest.raises(BundleMismatch, match="is not a calibration"):
        load_platt(tmp_path / "absent.json")


def test_other_labels_give_another_digest() -> None:
    margins, labels = drawn(1.0, 0.0, 100)

    assert (
        fit_platt(margins, labels, version="x").digest != fit_platt(margins[::-1], labels, version="x").digest
    )


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(-1000) == 0.0
    assert sigmoid(1000) == 1.0
    assert sigmoid(0) == 0.5


SUMS = {Technique.FS: -6.0, Technique.FR: -5.0, Technique.FE: -9.0, Technique.EFS: -7.0}
LENGTHS = {Technique.FS: 6, Technique.FR: 4, Technique.FE: 5, Technique.EFS: 10}
PRIOR = {Technique.FS: -1.0, Technique.FR: -1.0, Technique.FE: -8.5, Technique.EFS: -5.0}


@pytest.mark.parametrize(
    ("how", "winner"),
    [
        pytest.param(Normalisation.SUM, Technique.FR, id="the sum favours the short"),
        pytest.param(Normalisation.MEAN, Technique.EFS, id="the mean does not"),
        pytest.param(Normalisation.PRIOR, Technique.FE, id="the prior takes habit away"),
    ],
)
def test_normalisations_differ_as_they_say(how: Normalisation, winner: Technique) -> None:
    result = technique_shares(SUMS, LENGTHS, how=how, prior=PRIOR)

    assert result.technique is winner
    assert sum(result.shares.values()) == pytest.approx(1)
    assert max(result.shares, key=lambda name: result.shares[name]) is winner


def test_answers_of_one_length_score_the_same_by_sum_and_mean() -> None:
    same = dict.fromkeys(SUMS, 5)

    by_mean = technique_shares(SUMS, same, how=Normalisation.MEAN).shares

    assert by_mean == pytest.approx(dict(technique_shares(SUMS, same, how=Normalisation.SUM).shares))


def test_a_prior_must_be_given() -> None:
    with pytest.raises(ValueError, match="content-free"):
        technique_shares(SUMS, LENGTHS, how=Normalisation.PRIOR)
