"""Judge a tower on sources that it was trained without, and calibrate on sources that a verdict was fitted without.

Nobody knows tomorrow's generators. A source that was left out is the nearest thing to one that can be measured: the
model never saw its pictures. Towers are chosen by these figures, and thresholds and probabilities are fitted on them.
A figure on a source that was trained on says nothing about the next source, so none is shown that way.
"""

import datetime
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from moderation.analysis import Label, Technique
from moderation.dfa.bench.estimates import Estimate, auc, auc_estimate, estimate, share
from moderation.dfa.bench.tables import markdown
from moderation.dfa.gpt.calibration import Platt, doubtful, fit_platt, sigmoid
from moderation.dfa.instruct.examples import as_served
from moderation.dfa.instruct.pool import Pool, Pooled
from moderation.dfa.instruct.quality import detail
from moderation.dfa.train.probe import Stored, by_quality, distances_left_out, held_out, judged_without
from moderation.dfa.train.sight import Sight

#: Pictures of each origin and label that are looked at, at most.
MOST = 300
#: A source with fewer of either label says nothing.
LEAST = 15


@dataclass(frozen=True, eq=False)
class Looked:
    """Pictures of sources that were left out, with the tower's verdicts."""

    rows: tuple[Pooled, ...]
    logits: np.ndarray  # (N,)
    #: Measures that need no look at the face, by name: sharpness, side, brightness.
    shortcuts: dict[str, np.ndarray]

    @property
    def deepfake(self) -> np.ndarray:
        """(N,) bool."""
        return np.array([row.label is Label.DEEPFAKE for row in self.rows])


def left_out(pool: Pool, names: Collection[str], *, most: int = MOST, seed: int = 0) -> list[Pooled]:
    """Pictures of these sources with a face: at most `most` of each origin and label."""
    rng = np.random.default_rng([seed, 17])
    groups: dict[tuple[str, Label], list[Pooled]] = {}
    for row in pool.rows:
        if row.found and row.source in names:
            groups.setdefault((row.origin, row.label), []).append(row)
    chosen: list[Pooled] = []
    for rows in groups.values():
        chosen += [rows[index] for index in sorted(rng.permutation(len(rows))[:most])]
    return chosen


def look_at(sight: Sight, pool: Pool, rows: Sequence[Pooled], *, batch: int = 16) -> Looked:
    """The tower's verdicts on pictures, cropped as the worker crops them."""
    logits: list[float] = []
    shortcuts: dict[str, list[float]] = {"sharpness": [], "side": [], "brightness": []}
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            crops = [as_served(pool.crops[row.row]) for row in part]
            seen = sight(sight.as_input(crops))
            logits += (seen.verdict + seen.local).tolist()
            for row, crop in zip(part, crops, strict=True):
                shortcuts["sharpness"].append(detail(crop))
                shortcuts["side"].append(row.face_side)
                shortcuts["brightness"].append(float(crop.mean()))
    numbers = {name: np.array(values) for name, values in shortcuts.items()}
    return Looked(tuple(rows), np.array(logits), numbers)


@dataclass(frozen=True)
class Stranger:
    """Figures of one forged origin that was left out."""

    origin: str
    technique: Technique | None
    auc: Estimate
    #: The share of its pictures that are called deepfakes.
    found: Estimate
    #: AUC of each of `Looked.shortcuts` on the same pictures.
    shortcuts: dict[str, float]


def against(looked: Looked, origin: str) -> np.ndarray:
    """Indices of a forged origin and of the bona fide faces to compare it with: those of its source, else all."""
    forged = [i for i, row in enumerate(looked.rows) if row.label is Label.DEEPFAKE and row.origin == origin]
    source = looked.rows[forged[0]].source
    bona_fide = [i for i, row in enumerate(looked.rows) if row.label is Label.BONA_FIDE]
    own = [i for i in bona_fide if looked.rows[i].source == source]
    return np.array(forged + (own if len(own) >= LEAST else bona_fide))


def strangers(looked: Looked, platt: Platt | None = None) -> list[Stranger]:
    """Figures of every forged origin, against its bona fide faces."""
    labels = looked.deepfake
    origins = sorted({row.origin for row, forged in zip(looked.rows, labels, strict=True) if forged})
    least = 0.5 if platt is None or platt.zone is None else platt.zone[1]
    results: list[Stranger] = []
    for origin in origins:
        rows = against(looked, origin)
        forged = rows[labels[rows]]
        if min(len(forged), len(rows) - len(forged)) < LEAST:
            continue
        groups = [looked.rows[i].group for i in rows]
        scores = [(platt.probability if platt else sigmoid)(float(looked.logits[i])) for i in forged]
        results.append(
            Stranger(
                origin=origin,
                technique=looked.rows[forged[0]].technique,
                auc=auc_estimate(looked.logits[rows].tolist(), labels[rows].tolist(), groups),
                found=share(sum(score >= least for score in scores), len(scores)),
                shortcuts={
                    name: auc(values[rows], labels[rows]) for name, values in looked.shortcuts.items()
                },
            )
        )
    return results


def calibrated(logits: np.ndarray, deepfake: np.ndarray, origin: np.ndarray, *, version: str) -> Platt:
    """Platt scaling on faces of sources left out. Every origin and both labels weigh the same.

    Within the zone of their scores (`doubtful`) the verdict is undetermined.
    """
    known = np.flatnonzero(~np.isnan(logits))
    rows = known[_evened(deepfake[known], origin[known])]
    platt = fit_platt(logits[rows].tolist(), deepfake[rows].tolist(), version=version)
    scores = [platt.probability(float(logit)) for logit in logits[rows[~deepfake[rows]]]]
    return replace(platt, zone=doubtful(scores))


#: The share of bona fide faces, of sources left out, that may be called unlike the training.
REFUSED = 0.01


def calibration_of(stored: Stored, without: np.ndarray, *, today: datetime.date) -> Platt:
    """The calibration of a bundle whose verdict and strangeness are fitted on these faces.

    Each face's score and strangeness come from a fit without its source: `without` is `held_out(stored)`.
    """
    platt = calibrated(without, stored.deepfake, stored.origin, version=today.isoformat())
    distances = distances_left_out(stored)
    known = distances[~np.isnan(distances)]
    return replace(
        platt,
        basis=f"each of these sources, judged without it: {', '.join(np.unique(stored.source))}",
        strangest=float(np.quantile(known, 1 - REFUSED)) if len(known) else None,
    )


def _evened(deepfake: np.ndarray, origin: np.ndarray, *, each: int = 200, seed: int = 0) -> np.ndarray:
    """Draw indices so that every origin with enough faces, and both labels, are equally frequent."""
    rng = np.random.default_rng([seed, 23])
    kinds = {
        (label, name): rows
        for label in (False, True)
        for name in np.unique(origin)
        if len(rows := np.flatnonzero((deepfake == label) & (origin == name))) >= LEAST
    }
    counts = Counter(label for label, _ in kinds)
    most = max(counts.values())
    return np.concatenate(
        [rng.choice(rows, size=each * most // counts[label]) for (label, _), rows in kinds.items()]
    )


def honesty(looked: Looked, platt: Platt) -> dict[str, Estimate]:
    """Shares of verdicts, and ECE (10 bins), on sources that the calibration never saw.

    ECE is the mean of |share of deepfakes − mean score| over bins of equal width, weighted by the pictures in each (Guo
    et al., ICML 2017). Origins and labels are drawn equally often.
    """
    deepfake = looked.deepfake
    scores = np.array([platt.probability(float(logit)) for logit in looked.logits])
    low, high = platt.zone or (0.5, 0.5)
    called, undecided = scores >= high, (scores > low) & (scores < high)
    rows = _evened(deepfake, np.array([row.origin for row in looked.rows]))
    groups = [looked.rows[i].group for i in rows]
    return {
        "bona fide called a deepfake": share(int(called[~deepfake].sum()), int((~deepfake).sum())),
        "deepfakes found": share(int(called[deepfake].sum()), int(deepfake.sum())),
        "left undecided": share(int(undecided.sum()), len(scores)),
        "ECE": estimate(lambda chosen: _ece(scores[rows[chosen]], deepfake[rows[chosen]]), groups),
    }


def _ece(scores: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    places = np.clip((scores * bins).astype(int), 0, bins - 1)
    gaps = [
        abs(labels[places == b].mean() - scores[places == b].mean()) * (places == b).mean()
        for b in range(bins)
        if (places == b).any()
    ]
    return float(sum(gaps))


def as_table(results: Sequence[Stranger]) -> str:
    """A Markdown table: one origin a line, then the mean over origins."""
    rows: list[tuple[object, ...]] = []
    for each in results:
        shortcuts = ", ".join(f"{value:.2f}" for value in each.shortcuts.values())
        rows.append((each.origin, each.technique or "mixed", each.auc, f"{each.found.value:.2f}", shortcuts))
    if results:
        mean = np.mean([each.auc.value for each in results])
        rows.append((f"mean over {len(results)}", "", f"{mean:.3f}", "", ""))
    columns = (
        "left out",
        "technique",
        "DF-D AUC [95 %]",
        "called a deepfake",
        "sharpness, side, brightness alone",
    )
    return "\n".join(markdown(columns, rows)) + "\n"


#: Forgeries of the lab are left out by technique, all others by source.
LAB = "lab/"


@dataclass(frozen=True)
class LeftOut:
    """DF-D AUCs on one forged origin."""

    #: Of a verdict that was fitted without it, on faces drawn as in training: degraded, each two alike.
    drawn: Estimate
    #: Of that verdict, on its pictures as the worker crops them. None for the lab, and for few pictures.
    served: Estimate | None
    #: Of a verdict that knows only quality, on the drawn faces.
    quality: Estimate


def each_left_out(stored: Stored, without: np.ndarray, served: Stored) -> dict[str, LeftOut]:
    """How the verdict carries over to each forged origin, drawn as in training and `served`.

    An origin is compared with the bona fide faces of its source, or with all when its source has few. The tower had
    seen the origin. So this measures how the verdict carries over, and not how the tower does. `without` is
    `held_out(stored)`.
    """
    lab = np.char.startswith(stored.origin, LAB)
    made = np.where(lab & stored.deepfake, held_out(stored, np.where(lab, stored.origin, "")), without)
    quality = by_quality(stored)
    seen = judged_without(stored, served)
    results: dict[str, LeftOut] = {}
    for origin in np.unique(stored.origin[stored.deepfake]):
        rows = _compared(stored, origin, made)
        if rows is not None:
            shown = _compared(served, origin, seen)
            results[str(origin)] = LeftOut(
                drawn=_auc(made, stored.deepfake, rows),
                served=None if shown is None else _auc(seen, served.deepfake, shown),
                quality=_auc(quality, stored.deepfake, rows),
            )
    return results


def _compared(faces: Stored, origin: str, logits: np.ndarray) -> np.ndarray | None:
    """Places of an origin's deepfakes and of the bona fide faces beside them. None when either are few."""
    forged = faces.deepfake & (faces.origin == origin)
    own = ~faces.deepfake & np.isin(faces.source, np.unique(faces.source[forged]))
    beside = own if own.sum() >= LEAST else ~faces.deepfake
    rows = np.flatnonzero((forged | beside) & ~np.isnan(logits))
    return rows if min(forged[rows].sum(), beside[rows].sum()) >= LEAST else None


def _auc(logits: np.ndarray, deepfake: np.ndarray, rows: np.ndarray) -> Estimate:
    return auc_estimate(logits[rows].tolist(), deepfake[rows].tolist(), [str(row) for row in rows])


def as_left_out_table(results: Mapping[str, LeftOut]) -> str:
    """A Markdown table: one origin a line, then the means over origins."""
    figures = {origin: (each.drawn, each.served, each.quality) for origin, each in results.items()}
    rows = [(origin, *(figure or "–" for figure in row)) for origin, row in figures.items()]
    if figures:
        known = [[f.value for f in column if f is not None] for column in zip(*figures.values(), strict=True)]
        means = [f"{np.mean(values):.3f} of {len(values)}" if values else "–" for values in known]
        rows.append(("mean", *means))
    columns = ("left out", "drawn: DF-D AUC [95 %]", "as served", "quality alone")
    return "\n".join(markdown(columns, rows)) + "\n"


def as_json(results: Sequence[Stranger]) -> list[dict[str, Any]]:
    return [
        {"origin": each.origin, "technique": each.technique, "auc": vars(each.auc), "found": vars(each.found)}
        | each.shortcuts
        for each in results
    ]
