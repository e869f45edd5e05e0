"""From the DF-C answers' log-probabilities to shares of the techniques."""

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from moderation.analysis import Technique


class Normalisation(enum.StrEnum):
    """How to compare answers of different lengths.

    SUM is the probability of the whole answer. Every further token lowers it, so long answers lose. PRIOR subtracts
    each answer's score on a grey picture. This removes length and bias, but a grey picture is unlike all training
    pictures, and one odd answer there moves every case. MEAN is the log-probability per token, scaled by the mean
    length of the answers so that shares stay as sharp as probabilities. It removes the length and needs nothing else,
    so it is served. When a model is sure of one answer, all three agree.

    On a trained bundle SUM and MEAN hardly differ and PRIOR is worse (`docs/engine.md`); `bonafide dfa bench` prints
    all three. On random weights each way has a favourite (`benchmarks/engine.py`).
    """

    SUM = "sum"
    MEAN = "mean"
    PRIOR = "prior"


@dataclass(frozen=True)
class TechniqueShares:
    """Shares in [0, 1] that sum to 1, and the technique with the largest."""

    shares: Mapping[Technique, float]
    technique: Technique


def technique_shares(
    sums: Mapping[Technique, float],
    lengths: Mapping[Technique, int],
    *,
    how: Normalisation = Normalisation.MEAN,
    prior: Mapping[Technique, float] | None = None,
    head: Mapping[Technique, float] | None = None,
) -> TechniqueShares:
    """From sums of log-probabilities. `prior` holds the sums on a content-free picture, only for PRIOR.

    `head` holds the shares of a bundle's technique head. They decide where there are any: a small language model reads
    the tower badly.
    """
    if head is not None:
        return TechniqueShares(head, max(head, key=head.__getitem__))
    scores = _comparable(sums, lengths, how, prior)
    top = max(scores.values())
    weights = {technique: math.exp(score - top) for technique, score in scores.items()}
    total = sum(weights.values())
    return TechniqueShares(
        shares={technique: weight / total for technique, weight in weights.items()},
        technique=max(scores, key=scores.__getitem__),
    )


def _comparable(
    sums: Mapping[Technique, float],
    lengths: Mapping[Technique, int],
    how: Normalisation,
    prior: Mapping[Technique, float] | None,
) -> dict[Technique, float]:
    if how is Normalisation.SUM:
        return dict(sums)
    if how is Normalisation.PRIOR:
        if prior is None:
            raise ValueError("PRIOR needs the sums on a content-free picture")
        return {technique: value - prior[technique] for technique, value in sums.items()}
    mean_length = sum(lengths[technique] for technique in sums) / len(sums)
    return {technique: value / lengths[technique] * mean_length for technique, value in sums.items()}
