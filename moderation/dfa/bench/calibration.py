"""Calibration of the scores, and the gain from abstaining."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moderation.analysis import Abstain
from moderation.dfa.bench.ask import Judged, abstained, scores_of
from moderation.dfa.bench.estimates import Estimate, estimates, share, with_width
from moderation.dfa.bench.tables import Cell, Table
from moderation.dfa.gpt.calibration import fit_platt

#: Bins of equal mass for ECE and the reliability plot.
BINS = 15
#: Scores are clipped to this distance from 0 and 1 before the logit.
EDGE = 1e-6
#: Shares of the pictures, surest first, for which the risk is printed.
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.5)


@dataclass(frozen=True)
class Bin:
    """Pictures of neighbouring scores."""

    mean_score: float
    deepfakes: Estimate  # share


def equal_mass_bins(scores: np.ndarray, count: int = BINS) -> list[np.ndarray]:
    """Row indices of `count` bins from the lowest scores to the highest, equal in size up to one. No bin is empty."""
    return [rows for rows in np.array_split(np.argsort(scores, kind="stable"), count) if len(rows)]


def reliability(scores: np.ndarray, positive: np.ndarray) -> list[Bin]:
    return [
        Bin(float(scores[rows].mean()), share(int(positive[rows].sum()), len(rows)))
        for rows in equal_mass_bins(scores)
    ]


def expected_calibration_error(scores: np.ndarray, positive: np.ndarray) -> float:
    """Mean over pictures of their bin's |mean score − share of deepfakes|."""
    gaps = [
        len(rows) * abs(float(scores[rows].mean()) - float(positive[rows].mean()))
        for rows in equal_mass_bins(scores)
    ]
    return sum(gaps) / len(scores) if len(scores) else float("nan")


def brier(scores: np.ndarray, positive: np.ndarray) -> float:
    """The mean squared error of the scores as probabilities."""
    return float(np.mean((scores - positive) ** 2)) if len(scores) else float("nan")


def slope_and_intercept(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of a logistic regression of the label on the score's logit: 1 and 0 when calibrated.

    NaN when there are too few labels.
    """
    held = np.clip(scores, EDGE, 1 - EDGE)
    try:
        fit = fit_platt(np.log(held / (1 - held)).tolist(), positive.astype(bool).tolist(), version="")
    except ValueError:
        return float("nan"), float("nan")
    return fit.a, fit.b


def calibration_table(judged: Sequence[Judged]) -> Table:
    scores, positive, groups = scores_of(judged)

    def measure(rows: np.ndarray) -> list[float]:
        s, p = scores[rows], positive[rows]
        return [brier(s, p), expected_calibration_error(s, p), *slope_and_intercept(s, p)]

    fitted = any(j.verdict.calibrated for j in judged)
    return Table(
        name="calibration",
        title="Calibration",
        note=(
            ("" if fitted else "The bundle is not calibrated: its scores only order. ")
            + f"Brier score, ECE of {BINS} bins of equal mass, slope and intercept of the label on the score's logit "
            "(1 and 0 when calibrated). ECE of few pictures is above 0 even for a perfect score."
        ),
        columns=("n", "forged share", "Brier", "ECE", "slope", "intercept"),
        rows=[(len(scores), share(int(positive.sum()), len(scores)), *estimates(measure, groups))],
    )


def reliability_table(judged: Sequence[Judged]) -> Table:
    scores, positive, _ = scores_of(judged)
    rows: list[Sequence[Cell]] = [
        (number, bin_.mean_score, bin_.deepfakes, bin_.deepfakes.n)
        for number, bin_ in enumerate(reliability(scores, positive), start=1)
    ]
    return Table(
        name="reliability",
        title="Reliability",
        note=f"{BINS} bins of equal mass, from the lowest scores to the highest.",
        columns=("bin", "mean score", "share of deepfakes", "n"),
        rows=rows,
    )


# --- abstention ---


def sureness(judged: Judged, threshold: float) -> float:
    """The distance of the score from the threshold. −1 for a picture that the model did not judge.

    `near_threshold` keeps its score: it is about the score itself. With any other code the score must not be used.
    """
    if judged.score is None or judged.verdict.abstain not in {None, Abstain.NEAR_THRESHOLD}:
        return -1.0
    return abs(judged.score - threshold)


def risk_coverage(judged: Sequence[Judged], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and risk (share of wrong answers), answering the surest pictures first."""
    risks = _risks(*_sure_and_wrong(judged, threshold))
    return np.arange(1, len(judged) + 1) / len(judged), risks


def _sure_and_wrong(judged: Sequence[Judged], threshold: float) -> tuple[np.ndarray, np.ndarray]:
    sure = np.array([sureness(j, threshold) for j in judged])
    return sure, np.array([_wrong(j, threshold) for j in judged], dtype=float)


def _risks(sure: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """(n,): the share wrong among the surest picture, the surest two, and so on."""
    order = np.argsort(-sure, kind="stable")
    return np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)


def _wrong(judged: Judged, threshold: float) -> bool:
    if sureness(judged, threshold) < 0 or judged.score is None:
        return True
    return (judged.score >= threshold) is not judged.item.deepfake


def abstention_table(judged: Sequence[Judged], threshold: float) -> Table:
    sure, wrong = _sure_and_wrong(judged, threshold)

    def measure(rows: np.ndarray) -> list[float]:
        """The risk at each coverage, and its mean over all coverages."""
        risks = _risks(sure[rows], wrong[rows])
        if not len(risks):
            return [float("nan")] * (len(COVERAGES) + 1)
        at = [max(round(coverage * len(rows)), 1) - 1 for coverage in COVERAGES]
        return [*risks[at].tolist(), float(risks.mean())]

    groups = [j.item.group for j in judged]
    *risks, area = estimates(measure, groups)
    surest = [max(round(part * len(set(groups))), 1) for part in COVERAGES]
    answered = [j for j in judged if not abstained(j)]
    errors = sum(_wrong(j, threshold) for j in answered)
    served = share(len(answered), len(judged)).value
    rows: list[Sequence[Cell]] = [
        *(
            (f"surest {part:.0%}", part, with_width(risk, of))
            for part, risk, of in zip(COVERAGES, risks, surest, strict=True)
        ),
        ("as served", served, share(errors, len(answered))),
        ("mean over all coverages (AURC)", None, area),
    ]
    return Table(
        name="abstention",
        title="Abstention: risk and coverage",
        note="Risk is the share wrong among the pictures answered, surest first; those not judged come last, as wrong.",
        columns=("answered", "coverage", "risk"),
        rows=rows,
    )


def abstain_codes(judged: Sequence[Judged]) -> Table:
    """Reasons for undetermined verdicts, by label."""
    codes = [(j.refusal or str(j.verdict.abstain), j.item.deepfake) for j in judged if abstained(j)]
    return Table(
        name="abstain_codes",
        title="Why a verdict was undetermined",
        note="A gate that stops one label more often than the other tells them apart by itself.",
        columns=("code", "forged", "bona fide"),
        rows=[
            (code, codes.count((code, True)), codes.count((code, False)))
            for code in sorted({c for c, _ in codes})
        ],
    )
