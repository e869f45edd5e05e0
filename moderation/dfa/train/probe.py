"""The last step of seeing: verdict and technique as linear probes, fitted to the end on a tower that stands still.

Heads that learn beside a moving tower lag behind it. Fitted anew, to convergence and with a strong ridge, the same
linear questions carry over to other makers clearly better, at the cost of one look at each face (last-layer retraining,
Kirichenko et al., ICLR 2023; linear probes on CLIP for unseen generators, Ojha et al., CVPR 2023).

N faces, L layers, D tower width.
"""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from moderation.analysis import Label, Technique
from moderation.dfa.gpt.heads import Heads
from moderation.dfa.instruct.builder import read_picture
from moderation.dfa.train.sight import Sight, as_pixels

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

#: Inverse strength of the ridge for one face, in features of unit spread. Chosen by sources left out, among
#: ten times less and ten times more.
RIDGE = 4.0


@dataclass(frozen=True, eq=False)
class Stored:
    """Faces of a DFA-Instruct folder, and what a tower makes of them."""

    features: np.ndarray  # (N, L·D), on the sphere
    deepfake: np.ndarray  # (N,) bool
    technique: np.ndarray  # (N,) of int64: place in Technique; −1 when bona fide or not known
    source: np.ndarray  # (N,) of str: the folder of the pool that the face comes from
    origin: np.ndarray  # (N,) of str: what made it, "lab/FS" or an origin of its folder

    def without(self, sources: Collection[str]) -> "Stored":
        kept = ~np.isin(self.source, list(sources))
        return Stored(*(values[kept] for values in vars(self).values()))


def stored_features(sight: Sight, instruct: Path, *, size: int = 224, batch: int = 32) -> Stored:
    """What a tower makes of every face of a DFA-Instruct folder."""
    with (instruct / "manifest.jsonl").open(encoding="utf-8") as lines:
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    numbers = next(weight.dtype for weight in sight.tower.parameters() if weight.dim() > 1)
    features: list[np.ndarray] = []
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            pictures = [read_picture(instruct / row["image"], size) for row in rows[start : start + batch]]
            features.append(sight(as_pixels(pictures).to(numbers)).features.numpy())
    places = {str(technique): place for place, technique in enumerate(Technique)}
    return Stored(
        features=np.concatenate(features),
        deepfake=np.array([row["label"] == Label.DEEPFAKE for row in rows]),
        technique=np.array([places.get(row["technique"] or "", -1) for row in rows]),
        source=np.array([row["group"].split("/")[0] for row in rows]),
        origin=np.array(["/".join(row["origin"].split("/")[:2]) for row in rows]),
    )


#: A source with fewer faces is left to the others.
FEWEST = 20


def held_out(stored: Stored) -> np.ndarray:
    """(N,): of every face the logit of a verdict that was fitted without its source. Not a number for tiny sources."""
    logits = np.full(len(stored.deepfake), np.nan)
    for source in np.unique(stored.source):
        own = stored.source == source
        if own.sum() >= FEWEST:
            rest = stored.without([source])
            middle, spread = rest.features.mean(axis=0), rest.features.std(axis=0) + 1e-6
            probe = _verdict((rest.features - middle) / spread, rest.deepfake)
            logits[own] = probe.decision_function((stored.features[own] - middle) / spread)
    return logits


def _verdict(even: np.ndarray, deepfake: np.ndarray) -> "LogisticRegression":
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=RIDGE / len(even), max_iter=500).fit(even, deepfake)


def fit_probes(heads: Heads, stored: Stored) -> None:
    """Fit the verdict and the technique of these heads to convergence. Their other parts stay as they are.

    Features are brought to no mean and unit spread first, and the heads remember where these faces lie (`Heads.know`).
    """
    from sklearn.linear_model import LogisticRegression

    heads.know(torch.from_numpy(stored.features).float())
    middle, spread = (each.numpy() for each in (heads.middle, heads.spread))
    even = (stored.features - middle) / spread
    verdict = _verdict(even, stored.deepfake)
    known = stored.technique >= 0
    technique = LogisticRegression(C=RIDGE / known.sum(), max_iter=500).fit(
        even[known], stored.technique[known]
    )
    present = torch.from_numpy(technique.classes_)
    directions, offset = technique.coef_, technique.intercept_
    if len(present) == 2:  # scikit-learn gives two classes one direction
        directions, offset = (
            np.stack([-directions[0], directions[0]]) / 2,
            np.array([-offset[0], offset[0]]) / 2,
        )
    weights = torch.from_numpy(directions / spread).float()
    offsets = torch.from_numpy(np.asarray(offset - (directions / spread) @ middle)).float()
    with torch.no_grad():
        heads.verdict.copy_(torch.from_numpy(np.asarray(verdict.coef_)[0]))
        heads.verdict_bias.fill_(float(np.asarray(verdict.intercept_)[0]))
        # The head takes features times the root of their number, so that its weights are of ordinary size.
        heads.technique.weight[present] = weights / weights.shape[1] ** 0.5
        heads.technique.bias[present] = offsets
