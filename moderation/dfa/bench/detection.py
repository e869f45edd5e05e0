"""DF-D and DF-C: how well deepfakes are separated from bona fide faces, and techniques from one another."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from moderation.analysis import Abstain, Label, Technique
from moderation.dfa.bench.ask import Judged, Told, abstained, called_deepfake, scores_of
from moderation.dfa.bench.estimates import (
    Estimate,
    auc_estimate,
    estimate,
    estimates,
    macro_f1,
    share,
    with_width,
)
from moderation.dfa.bench.manifest import Item
from moderation.dfa.bench.tables import Cell, Table
from moderation.dfa.gpt.scoring import Normalisation, technique_shares

#: A source with fewer bona fide pictures is compared with those of other sources.
FEWEST_PARTNERS = 10
#: The false positive rate at which the true positive rate is reported.
LOW_FPR = 0.01

TECHNIQUES = tuple(str(technique) for technique in Technique)


# --- measures ---


@dataclass(frozen=True)
class Thresholds:
    """Counts of true positives (hits) and false positives (alarms) as the threshold falls to the lowest score.

    The first entry has none of either; then comes one for each distinct score. Not a library's function: its input
    checks take a hundred times as long as the curve, which is computed for every resample.
    """

    hits: np.ndarray
    alarms: np.ndarray

    @property
    def tpr(self) -> np.ndarray:
        return self.hits / self.hits[-1]

    @property
    def fpr(self) -> np.ndarray:
        return self.alarms / self.alarms[-1]


def thresholds(scores: np.ndarray, positive: np.ndarray) -> Thresholds:
    order = np.argsort(-scores, kind="stable")
    ordered, labels = scores[order], positive[order].astype(bool)
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # of each run of ties
    hits, alarms = np.cumsum(labels)[last], np.cumsum(~labels)[last]
    return Thresholds(np.concatenate([[0], hits]), np.concatenate([[0], alarms]))


def equal_error_rate(curve: Thresholds) -> float:
    """The rate at which misses equal false positives, interpolated between the two nearest thresholds."""
    fpr, gap = curve.fpr, curve.fpr - (1 - curve.tpr)  # the gap rises from −1 to 1
    after = int(np.argmax(gap >= 0))
    position = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(fpr[after - 1] + position * (fpr[after] - fpr[after - 1]))


def tpr_at(fpr_limit: float, curve: Thresholds) -> float:
    """The highest true positive rate with a false positive rate within the limit."""
    return float(curve.tpr[curve.fpr <= fpr_limit].max())


def average_precision(curve: Thresholds) -> float:
    """The mean precision over thresholds, weighted by the gain in recall."""
    precision = curve.hits[1:] / (curve.hits[1:] + curve.alarms[1:])
    return float(np.sum(np.diff(curve.tpr) * precision))


@dataclass(frozen=True)
class Detection:
    """DF-D of one slice. Rank measures use pictures with a score, shares use all pictures."""

    auc: Estimate
    average_precision: Estimate
    eer: Estimate
    tpr_at_low_fpr: Estimate
    #: Share right at the frozen threshold. A picture without a score, or with an unreadable reply, is wrong.
    accuracy: Estimate
    #: Share of bona fide with a score at or above the threshold; share of deepfakes below it or without a score.
    fpr: Estimate
    fnr: Estimate
    abstained: Estimate


def ranks(scores: np.ndarray, positive: np.ndarray, groups: Sequence[str]) -> list[Estimate]:
    """AUC, average precision, equal error rate, and the true positive rate at 1 % false positives."""

    def measure(rows: np.ndarray) -> list[float]:
        s, p = scores[rows], positive[rows]
        if not len(p) or p.all() or not p.any():
            return [float("nan")] * 4
        curve = thresholds(s, p)
        return [
            float(np.trapezoid(curve.tpr, curve.fpr)),
            average_precision(curve),
            equal_error_rate(curve),
            tpr_at(LOW_FPR, curve),
        ]

    return [with_width(found, len(set(groups))) for found in estimates(measure, groups)]


def detection(judged: Sequence[Judged], threshold: float) -> Detection:
    called = [called_deepfake(j, threshold) for j in judged]
    right = [
        j.score is not None and j.verdict.abstain is not Abstain.UNPARSED and say is j.item.deepfake
        for j, say in zip(judged, called, strict=True)
    ]
    alarms = [say for j, say in zip(judged, called, strict=True) if not j.item.deepfake]
    missed = [not say for j, say in zip(judged, called, strict=True) if j.item.deepfake]
    return Detection(
        *ranks(*scores_of(judged)),
        accuracy=share(sum(right), len(judged)),
        fpr=share(sum(alarms), len(alarms)),
        fnr=share(sum(missed), len(missed)),
        abstained=share(sum(map(abstained, judged)), len(judged)),
    )


# --- slices ---


def slices(judged: Sequence[Judged]) -> Iterator[tuple[str, Sequence[Judged]]]:
    """All pictures, then each source and each technique with the bona fide pictures it is compared with."""
    yield "all", judged
    bona_fide = [j for j in judged if not j.item.deepfake]
    forged = [j for j in judged if j.item.deepfake]
    for source in sorted({j.item.source for j in forged}):
        rows = [j for j in forged if j.item.source == source]
        against, partners = _partners(rows, bona_fide)
        yield f"{source}, against {against}", [*rows, *partners]
    for technique in Technique:
        rows = [j for j in forged if j.item.technique is technique]
        if rows:
            yield f"{technique}, against all bona fide", [*rows, *bona_fide]


def _partners(forged: Sequence[Judged], bona_fide: Sequence[Judged]) -> tuple[str, Sequence[Judged]]:
    """The bona fide pictures most similar in origin to these forged ones, with a name for them."""
    source = forged[0].item.source
    folder = source.split("/")[0]
    groups = {j.item.group for j in forged}
    candidates = {
        "its own": [j for j in bona_fide if j.item.source == source],
        "those of its groups": [j for j in bona_fide if j.item.group in groups],
        folder: [j for j in bona_fide if j.item.source.split("/")[0] == folder],
    }
    for name, rows in candidates.items():
        if len(rows) >= FEWEST_PARTNERS:
            return name, rows
    return "all bona fide", bona_fide


def videos(judged: Sequence[Judged]) -> list[Judged]:
    """One row per video (without videos: per group), label and source, with the mean score of its frames."""
    units: dict[tuple[str, bool, str], list[Judged]] = {}
    for j in judged:
        unit = j.item.video or j.item.group
        units.setdefault((unit, j.item.deepfake, j.item.source), []).append(j)
    return [_mean_of(frames) for frames in units.values()]


def _mean_of(frames: Sequence[Judged]) -> Judged:
    scored = [(frame.score, frame) for frame in frames if frame.score is not None]
    if len(frames) == 1 or not scored:
        return frames[0]
    mean = float(np.mean([score for score, _ in scored]))
    _, nearest = min(scored, key=lambda pair: abs(pair[0] - mean))
    return replace(nearest, verdict=replace(nearest.verdict, score=mean))


# --- tables ---


def detection_table(judged: Sequence[Judged], threshold: float) -> Table:
    rows = [_detection_row(name, rows, threshold) for name, rows in slices(judged)]
    units = videos(judged)
    if len(units) < len(judged):
        rows.append(_detection_row("all, by video or group", units, threshold))
    return Table(
        name="detection",
        title="DF-D: deepfake or bona fide",
        note=(
            f"Threshold frozen at score {threshold:g}. AUC, AP, EER and TPR at 1 % FPR are over pictures with a "
            "score; accuracy, FPR and FNR are over all: a picture without a score is wrong, a deepfake without one "
            "is missed. Intervals 95 %: bootstrap by group, Wilson for shares."
        ),
        columns=(
            "slice", "forged", "bona fide", "without score", "AUC", "AP", "EER", "TPR at 1 % FPR", "accuracy",
            "FPR", "FNR", "undetermined",
        ),
        rows=rows,
    )  # fmt: skip


def _detection_row(name: str, judged: Sequence[Judged], threshold: float) -> Sequence[Cell]:
    forged = sum(j.item.deepfake for j in judged)
    without = sum(j.score is None for j in judged)
    return (name, forged, len(judged) - forged, without, *vars(detection(judged, threshold)).values())


@dataclass(frozen=True)
class FileNumbers:
    """Numbers of a file that should not tell a forged face from a bona fide one."""

    bytes_per_pixel: float
    side: int  # of the longer edge, pixels
    #: The first entry of the luminance quantisation table. 0 when the file has none.
    table: int


def file_numbers(data: bytes) -> FileNumbers:
    with Image.open(io.BytesIO(data)) as image:
        tables = getattr(image, "quantization", None) or {}
        first = next(iter(tables.values()), [0])[0]
        return FileNumbers(len(data) / (image.width * image.height), max(image.size), int(first))


def shortcut_table(judged: Sequence[Judged]) -> Table:
    """AUCs from file numbers alone, for the same slices as DF-D."""
    numbers = {j.item.file: file_numbers(j.item.file.read_bytes()) for j in judged if j.refusal is None}
    return Table(
        name="shortcuts",
        title="Shortcuts: what the files alone would say",
        note="AUC of one number of the file, for the slices of DF-D. Far from .5, DF-D there may be no more than this.",
        columns=("slice", "bytes per pixel", "longer side", "first luminance table entry"),
        rows=[
            (name, *_shortcuts([j for j in rows if j.item.file in numbers], numbers))
            for name, rows in slices(judged)
        ],
    )


def _shortcuts(rows: Sequence[Judged], numbers: Mapping[Path, FileNumbers]) -> Iterator[Estimate]:
    files = [numbers[j.item.file] for j in rows]
    labels, groups = [j.item.deepfake for j in rows], [j.item.group for j in rows]
    yield auc_estimate([file.bytes_per_pixel for file in files], labels, groups)
    yield auc_estimate([float(file.side) for file in files], labels, groups)
    yield auc_estimate([float(file.table) for file in files], labels, groups)


def technique_f1(items: Sequence[Item], said: Sequence[str | None]) -> Estimate:
    """Macro-F1 over the techniques that occur. None is an answer without a technique, and wrong."""
    truth = np.array([str(item.technique) for item in items], dtype=object)
    answers = np.array(list(said), dtype=object)

    def measure(rows: np.ndarray) -> float:
        if not len(rows):
            return float("nan")
        return macro_f1(truth[rows].tolist(), answers[rows].tolist(), TECHNIQUES)

    return estimate(measure, [item.group for item in items])


def normalisation_table(
    told: Sequence[Told], grey: Mapping[Technique, float], lengths: Mapping[Technique, int]
) -> Table:
    """DF-C of all forged faces, for every way to normalise answers of different lengths."""
    known = [t for t in told if t.item.technique is not None and t.sums]
    rows: list[Sequence[Cell]] = []
    for how in Normalisation:
        said = [str(technique_shares(t.sums, lengths, how=how, prior=grey).technique) for t in known]
        f1 = technique_f1([t.item for t in known], said)
        rows.append((how.value, f1.n, f1, *(said.count(name) for name in TECHNIQUES)))
    return Table(
        name="normalisations",
        title="DF-C by normalisation, verdict given",
        note="Every forged face of a known technique is asked, whatever the model's own verdict. `mean` is served. "
        "A bundle whose heads answer DF-C is not asked.",
        columns=("normalisation", "n", "macro-F1", *(f"said {name}" for name in TECHNIQUES)),
        rows=rows,
    )


def told_confusion(told: Sequence[Told]) -> Table:
    """The DF-C confusion matrix with the verdict given: rows are the truth, columns the answer."""
    known = [t for t in told if t.item.technique is not None]
    said = [str(t.technique) for t in known]
    truth = [str(t.item.technique) for t in known]
    return Table(
        name="confusion_told",
        title="DF-C confusion, verdict given",
        note="Rows are the truth, columns the answer.",
        columns=("truth", *TECHNIQUES),
        rows=_confusion(truth, said, TECHNIQUES, TECHNIQUES),
    )


#: The pipeline's other answers besides the four techniques. "deepfake" is one without a technique.
_OTHER_ANSWERS = (Label.DEEPFAKE.value, Label.BONA_FIDE.value, Label.UNDETERMINED.value)


def technique_table(judged: Sequence[Judged]) -> Table:
    """DF-C as served: a missed deepfake has no technique and counts as wrong."""
    forged = [j for j in judged if j.item.technique is not None]
    f1 = technique_f1([j.item for j in forged], [j.verdict.technique for j in forged])
    known = [j for j in judged if j.item.technique or not j.item.deepfake]
    truth = [str(j.item.technique or Label.BONA_FIDE) for j in known]
    said = [str(j.verdict.technique or j.verdict.label) for j in known]
    return Table(
        name="techniques",
        title="DF-C as served",
        note=(
            f"Macro-F1 {f1} over forged faces of a known technique: one that is not called a deepfake is wrong. "
            "Rows are the truth, columns the answer."
        ),
        columns=("truth", *TECHNIQUES, *_OTHER_ANSWERS),
        rows=_confusion(truth, said, (*TECHNIQUES, Label.BONA_FIDE.value), (*TECHNIQUES, *_OTHER_ANSWERS)),
    )


def _confusion(
    truth: Sequence[str], said: Sequence[str], rows: Sequence[str], columns: Sequence[str]
) -> list[Sequence[Cell]]:
    pairs = list(zip(truth, said, strict=True))
    return [(row, *(pairs.count((row, column)) for column in columns)) for row in rows]
