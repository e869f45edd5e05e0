"""Fit verdict and technique as linear probes on a finished tower.

Heads that learn while the tower moves lag behind it. Fitted anew, to convergence and with a strong ridge, they carry
over to other generators clearly better, and cost one pass over the faces (last-layer retraining, Kirichenko et al.,
ICLR 2023; linear probes on CLIP for unseen generators, Ojha et al., CVPR 2023). The verdict reads the class token and
the mean patch. Every origin weighs the same: a verdict that follows the largest sources carries over less.

N faces, L layers, D tower width.
"""

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from torch.utils.data import DataLoader

from moderation.dfa.gpt.heads import AXES, Heads
from moderation.dfa.instruct.examples import Example, as_served, example_of
from moderation.dfa.instruct.pool import Pool, Pooled
from moderation.dfa.instruct.quality import measures
from moderation.dfa.train.sight import TECHNIQUE_IDS, Drawn, Sight, side_by_side

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

#: Inverse strength of the ridge for one face, in features of unit spread. Sources left out chose it on half as many
#: faces as `small` is fitted on now; a weaker one was not tried in the whole recipe since.
RIDGE = 12.0
#: Stands in for pixels that are no longer needed.
NOTHING = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True, eq=False)
class Stored:
    """Faces of a pool, with their features by one tower."""

    features: np.ndarray  # (N, L·D): of the class token, on the sphere
    patches: np.ndarray  # (N, L·D), on the sphere: the mean of the patches
    foreign: np.ndarray  # (N, L·D), on the sphere: those that look foreign (`Heads.look`)
    deepfake: np.ndarray  # (N,) bool
    technique: np.ndarray  # (N,) of int64: place in Technique; −1 when bona fide or not known
    source: np.ndarray  # (N,) of str: the folder of the pool that the face comes from
    origin: np.ndarray  # (N,) of str: what made it, "lab/FS" or an origin of its folder
    quality: np.ndarray  # (N, 4): `quality.measures`

    def without(self, sources: Collection[str]) -> "Stored":
        kept = ~np.isin(self.source, list(sources))
        return Stored(*(values[kept] for values in vars(self).values()))


def stored_features(
    sight: Sight,
    faces: Path,
    twos: int,
    *,
    without: Collection[str] = (),
    seed: int = 99,
    loaders: int = 1,
    batch: int = 16,
) -> Stored:
    """Draw twos as in training and take the tower's features of them: 2·`twos` faces, the faces of a two adjacent.

    `faces` is a pool or a folder of DFA-Instruct.
    """
    drawn = Drawn(faces, twos, without=without, seed=seed)
    return _stored(sight, DataLoader(drawn, batch_size=batch, num_workers=loaders, collate_fn=side_by_side))


def served_features(sight: Sight, pool: Pool, rows: Sequence[Pooled], *, batch: int = 16) -> Stored:
    """The tower's features of pictures of a pool, cropped as the worker crops them and not degraded."""
    examples = (example_of(row, as_served(pool.crops[row.row])) for row in rows)
    return _stored(sight, iter(lambda: list(itertools.islice(examples, batch)), []))


def _stored(sight: Sight, batches: Iterable[list[Example]]) -> Stored:
    features, patches, foreign = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    known: list[Example] = []
    quality: list[tuple[float, ...]] = []
    with torch.inference_mode():
        for examples in batches:
            pictures = [each.pixels for each in examples]
            seen = sight(sight.as_input(pictures))
            features.append(seen.features.numpy())
            patches.append(seen.patches.float().numpy())
            foreign.append(F.normalize(seen.foreign.float(), dim=-1).numpy())
            quality += [measures(picture) for picture in pictures]
            known += [replace(each, pixels=NOTHING, mask=None) for each in examples]
    return Stored(
        features=np.concatenate(features),
        patches=np.concatenate(patches),
        foreign=np.concatenate(foreign),
        deepfake=np.array([each.deepfake for each in known]),
        technique=np.array([TECHNIQUE_IDS[each.technique] if each.technique else -1 for each in known]),
        source=np.array([each.group.split("/")[0] for each in known]),
        origin=np.array(["/".join(each.origin.split("/")[:2]) for each in known]),
        quality=np.array(quality),
    )


#: A source with fewer faces is not judged.
FEWEST = 20


def held_out(stored: Stored, kind: np.ndarray | None = None) -> np.ndarray:
    """(N,): for every face, the logit of a verdict that was fitted without the face's kind.

    The kind is the source, unless another is given. NaN for faces without a kind (""), and for kinds with few faces.
    """
    kind = stored.source if kind is None else kind
    names, counts = np.unique(kind, return_counts=True)
    enough = [name for name, count in zip(names, counts, strict=True) if name and count >= FEWEST]
    return _without(enough, stored, kind, stored, kind)


def judged_without(stored: Stored, others: Stored) -> np.ndarray:
    """(M,): for every one of M other faces, the logit of a verdict that was fitted without the face's source."""
    return _without(np.unique(others.source), stored, stored.source, others, others.source)


def _without(
    names: Iterable[str], stored: Stored, kind: np.ndarray, others: Stored, others_kind: np.ndarray
) -> np.ndarray:
    """(M,): for the other faces of each of these kinds, the logit of a verdict fitted on the stored faces of others."""
    logits = np.full(len(others.deepfake), np.nan)
    read, weights, judged = _read(stored), evened(stored), _read(others)
    for name in names:
        kept, own = kind != name, others_kind == name
        logits[own] = _judged(read[kept], stored.deepfake[kept], judged[own], weights[kept])
    return logits


def evened(stored: Stored) -> np.ndarray:
    """(N,), with a mean of 1: weights by which all origins of a label weigh the same, and both labels too."""
    kinds = np.char.add(stored.origin, np.where(stored.deepfake, "+", "-"))
    _, place, count = np.unique(kinds, return_inverse=True, return_counts=True)
    weights = 1 / count[place]
    for label in (False, True):
        weights[stored.deepfake == label] /= max(weights[stored.deepfake == label].sum(), 1e-9)
    return weights / weights.mean()


def _read(stored: Stored) -> np.ndarray:
    """(N, 2·L·D): what the verdict is fitted on."""
    return np.concatenate([stored.features, stored.patches], axis=1)


def _judged(
    features: np.ndarray, deepfake: np.ndarray, others: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    middle, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    verdict = _verdict((features - middle) / spread, deepfake, weights)
    return verdict.decision_function((others - middle) / spread)


#: Faces of other sources that a source's distances are measured from, at most.
FROM = 6000


def distances_left_out(stored: Stored, *, seed: int = 0) -> np.ndarray:
    """(N,): how far every bona fide face lies from the faces of other sources (`Heads.strangeness`).

    NaN for deepfakes, for sources with few bona fide faces, and where the others are too few to measure from.
    """
    rng = np.random.default_rng([seed, 41])
    distances = np.full(len(stored.deepfake), np.nan)
    features = torch.from_numpy(stored.features).float()
    for name in np.unique(stored.source):
        own = (stored.source == name) & ~stored.deepfake
        others = np.flatnonzero(stored.source != name)
        if own.sum() < FEWEST or len(others) <= AXES:
            continue
        others = rng.permutation(others)[:FROM]
        heads = Heads(1, features.shape[1])
        heads.know(features[torch.from_numpy(others)])
        with torch.no_grad():
            apart = heads.strangeness(features[torch.from_numpy(own)])
        assert apart is not None, "known faces have axes"
        distances[own] = apart.numpy()
    return distances


def by_quality(stored: Stored, *, folds: int = 5) -> np.ndarray:
    """(N,): for every face, the logit of a verdict that knows only quality: the measures and their products.

    It is fitted without the face itself but with others of its source, so it shows the most that quality can tell.
    """
    quality = np.log1p(stored.quality)
    even = (quality - quality.mean(axis=0)) / (quality.std(axis=0) + 1e-6)
    across, down = np.triu_indices(even.shape[1])
    known = np.concatenate([even, even[:, across] * even[:, down]], axis=1)
    # The faces of a two are adjacent, and go into one fold.
    fold = np.arange(len(known)) // 2 % folds
    logits, weights = np.empty(len(known)), evened(stored)
    for number in range(folds):
        own = fold == number
        logits[own] = _judged(known[~own], stored.deepfake[~own], known[own], weights[~own])
    return logits


def _verdict(even: np.ndarray, deepfake: np.ndarray, weights: np.ndarray) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=RIDGE / len(even), max_iter=500)
    return fitted.fit(even, deepfake, sample_weight=weights)


def per_class(fitted: "LogisticRegression") -> tuple[np.ndarray, np.ndarray]:
    """A direction (C, F) and an offset (C,) for each class. scikit-learn gives two classes one direction."""
    directions, offsets = np.asarray(fitted.coef_), np.asarray(fitted.intercept_)
    if len(directions) > 1:
        return directions, offsets
    return np.concatenate([-directions, directions]) / 2, np.concatenate([-offsets, offsets]) / 2


def fit_probes(heads: Heads, stored: Stored) -> None:
    """Fit verdict and technique of these heads to convergence. Their other parts stay as they are.

    The heads remember where these faces lie (`Heads.know`). The verdict of the class token is what a language model is
    taught: `fit_judgement` leaves it as it is.
    """
    heads.know(torch.from_numpy(stored.features).float())
    even = (stored.features - heads.middle.numpy()) / heads.spread.numpy()
    verdict = _verdict(even, stored.deepfake, evened(stored))
    with torch.no_grad():
        heads.verdict.copy_(torch.from_numpy(np.asarray(verdict.coef_)[0]))
        heads.verdict_bias.fill_(float(np.asarray(verdict.intercept_)[0]))
    fit_judgement(heads, stored)


def fit_judgement(heads: Heads, stored: Stored) -> None:
    """Fit the verdict that is read from both looks, and the techniques."""
    from sklearn.linear_model import LogisticRegression

    read = np.concatenate([_read(stored), stored.foreign], axis=1)
    middle, spread = read.mean(axis=0), read.std(axis=0) + 1e-6
    even, both, known = (read - middle) / spread, heads.judgement.in_features, stored.technique >= 0
    verdict = _verdict(even[:, :both], stored.deepfake, evened(stored))
    technique = LogisticRegression(C=RIDGE / known.sum(), max_iter=500).fit(
        even[known], stored.technique[known]
    )
    present = torch.from_numpy(technique.classes_)
    with torch.no_grad():
        for head, rows, (found, level) in (
            (heads.judgement, slice(0, 1), (np.asarray(verdict.coef_), np.asarray(verdict.intercept_))),
            (heads.technique, present, per_class(technique)),
        ):
            directions = found / spread[: found.shape[1]]
            # The heads take what they read times the root of the features' number.
            head.weight[rows] = torch.from_numpy(directions * len(heads.middle) ** -0.5).float()
            head.bias[rows] = torch.from_numpy(level - directions @ middle[: found.shape[1]]).float()
