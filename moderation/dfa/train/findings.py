"""Fit what the heads say is wrong with a face: where, what kind of change, and how strong.

Heads that learn while the tower moves lag behind it, as the verdict does (`probe.py`). So they are fitted again on the
finished tower: first the map of foreign-looking patches, on exact masks; then regions, kinds and strengths, on what
those patches have in common.

N faces, P patches, F = L·D features, R regions, K kinds, E (face, region) pairs.
"""

import copy
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import MOST_ARTIFACTS, Kind, Touch, read_touches
from moderation.dfa.gpt.grounding.known import named_touches
from moderation.dfa.gpt.heads import PARTS, REGIONS, Heads, findings
from moderation.dfa.instruct.builder import read_picture
from moderation.dfa.instruct.examples import GRID, SIZE
from moderation.dfa.train.probe import per_class
from moderation.dfa.train.sight import TECHNIQUE_IDS, Sight

#: Passes over the faces, learning rate and weight decay of the map.
PASSES, RATE, DECAY, BATCH = 6, 1e-3, 0.05, 64
#: Inverse strength of the ridges for one face or pair, in features of unit spread. Groups left out chose each among a
#: third of it, itself, and three times it.
REGION_RIDGE, KIND_RIDGE, STRENGTH_RIDGE = 3.0, 1.2, 1e-4


@dataclass(frozen=True)
class Described:
    """A face of DFA-Instruct that was forged in known parts."""

    image: Path
    mask: Path
    technique: Technique
    touches: tuple[Touch, ...]
    #: The person or source picture.
    group: str


def described(folder: Path) -> Iterator[Described]:
    """The faces of a folder that `dfa instruct` wrote which have a mask and named regions."""
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["mask"] is None or not row["facts"]:
            continue
        named = tuple(touch for touch in named_touches(read_touches(row["facts"])) if touch.region in REGIONS)
        if named and all(touch.region is not Region.UNMAPPED for touch in named):
            technique = Technique(row["technique"])
            yield Described(folder / row["image"], folder / row["mask"], technique, named, row["group"])


def patches_of(faces: Sequence[Described], sight: Sight, *, batch: int = 16) -> Tensor:
    """(N, P, F) float16: the tower's patches, normalised as the heads do. 1.2 MB per face."""
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(faces), batch):
            pictures = [read_picture(face.image, SIZE) for face in faces[start : start + batch]]
            states = sight.states(sight.as_input(pictures))
            parts.append(F.layer_norm(states, states.shape[-1:]).flatten(2)[:, 1:].half())
    return torch.cat(parts)


def masks_of(faces: Sequence[Described]) -> Tensor:
    """(N, P): the forged share of each patch."""
    side = SIZE // GRID
    masks = [np.asarray(Image.open(face.mask).convert("L"), np.float32) / 255 for face in faces]
    return torch.from_numpy(np.stack(masks)).view(-1, GRID, side, GRID, side).mean(dim=(2, 4)).flatten(1)


def fit_findings(heads: Heads, faces: Sequence[Described], patches: Tensor, *, seed: int = 0) -> None:
    """Fit map, regions, kinds and strengths of these heads on faces and their patches (N, P, F)."""
    _fit_map(heads.grid, patches, masks_of(faces), seed=seed)
    foreign = _foreign(heads, patches)
    middle, spread = foreign.mean(axis=0), foreign.std(axis=0) + 1e-6
    even = (foreign - middle) / spread
    with torch.no_grad():
        _fit_regions(heads, faces, even)
        _fit_kinds_and_strengths(heads, faces, even)
        for head in (heads.regions, heads.kinds, heads.strength):
            _take_back(head, middle, spread, fixed=head is heads.regions)


def _fit_map(grid: nn.Linear, patches: Tensor, masks: Tensor, *, seed: int) -> None:
    nn.init.zeros_(grid.weight)
    nn.init.zeros_(grid.bias)
    grid.requires_grad_()
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(grid.parameters(), lr=RATE, weight_decay=DECAY)
    with torch.enable_grad():
        for _ in range(PASSES):
            for rows in torch.randperm(len(patches), generator=draw).split(BATCH):
                loss = F.binary_cross_entropy_with_logits(grid(patches[rows].float())[..., 0], masks[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()


def _foreign(heads: Heads, patches: Tensor) -> np.ndarray:
    """(N, F): what the foreign-looking patches of each face have in common."""
    with torch.no_grad():
        parts = [heads.look(part.float())[1] for part in patches.split(BATCH)]
    return torch.cat(parts).numpy()


#: Logit of a region or a kind that no face has: it is never named.
NEVER = -20.0


def _fit_regions(heads: Heads, faces: Sequence[Described], even: np.ndarray) -> None:
    from sklearn.linear_model import LogisticRegression

    for place, region in enumerate(PARTS):
        changed = [any(touch.region is region for touch in face.touches) for face in faces]
        if len(set(changed)) < 2:
            heads.regions.weight[place] = 0.0
            heads.regions.bias[place] = -NEVER if any(changed) else NEVER
            continue
        fitted = LogisticRegression(C=REGION_RIDGE / len(even), max_iter=300).fit(even, changed)
        heads.regions.weight[place] = torch.from_numpy(np.asarray(fitted.coef_)[0]).float()
        heads.regions.bias[place] = float(np.asarray(fitted.intercept_)[0])


#: Features of pairs are divided by this, so that the ridge leaves technique and region nearly free.
_QUIET = 10.0


def _fit_kinds_and_strengths(heads: Heads, faces: Sequence[Described], even: np.ndarray) -> None:
    from sklearn.linear_model import LogisticRegression, Ridge

    pairs = [(row, touch) for row, face in enumerate(faces) for touch in face.touches]
    seen = even[[row for row, _ in pairs]] / _QUIET
    made = np.eye(len(Technique))[[TECHNIQUE_IDS[faces[row].technique] for row, _ in pairs]]
    placed = np.eye(len(REGIONS))[[REGIONS.index(touch.region) for _, touch in pairs]]

    kinds = [list(Kind).index(touch.kind) for _, touch in pairs]
    known = np.concatenate([seen, made * 3, placed * 3], axis=1)
    fitted = LogisticRegression(C=KIND_RIDGE / len(pairs) * _QUIET**2, max_iter=300).fit(known, kinds)
    directions = torch.zeros(len(Kind), known.shape[1])
    offsets = torch.full((len(Kind),), NEVER)
    present = torch.from_numpy(np.asarray(fitted.classes_))
    found, level = per_class(fitted)
    directions[present], offsets[present] = torch.from_numpy(found).float(), torch.from_numpy(level).float()
    width = seen.shape[1]
    heads.kinds.weight.copy_(directions[:, :width] / _QUIET)
    heads.kinds.bias.copy_(offsets)
    heads.technique_kinds.copy_(3 * directions[:, width : width + len(Technique)].T)
    heads.region_kinds.copy_(3 * directions[:, width + len(Technique) :].T)

    strengths = [touch.strength for _, touch in pairs]
    line = Ridge(alpha=1 / (STRENGTH_RIDGE * _QUIET**2)).fit(
        np.concatenate([seen, placed], axis=1), strengths
    )
    heads.strength.weight.copy_(torch.from_numpy(line.coef_[None, :width] / _QUIET))
    heads.strength.bias.fill_(float(line.intercept_))
    heads.region_strengths.copy_(torch.from_numpy(line.coef_[width:]))


def _take_back(head: nn.Linear, middle: np.ndarray, spread: np.ndarray, *, fixed: bool) -> None:
    """Turn weights for standardised features into weights for plain ones, but for the whole picture's if `fixed`."""
    rows = slice(len(PARTS) if fixed else None)
    head.weight[rows] /= torch.from_numpy(spread).float()
    head.bias[rows] -= head.weight[rows] @ torch.from_numpy(middle).float()


@dataclass(frozen=True)
class Found:
    """How well findings hit on groups that were left out."""

    region_f1: float
    #: The best answer without looking: the same regions for every face.
    blind_f1: float
    #: Share of (face, region) pairs whose kind is right.
    kinds: float
    #: Correlation of strengths over pairs.
    strengths: float
    faces: int


#: Every so many groups, one is left out.
LEFT_OUT = 6


def left_out_findings(heads: Heads, faces: Sequence[Described], patches: Tensor) -> Found:
    """Fit a copy of these heads on most groups of faces and judge the others. The technique is given."""
    out = np.array([zlib.crc32(face.group.encode()) % LEFT_OUT == 0 for face in faces])
    kept, judged = np.flatnonzero(~out), np.flatnonzero(out)
    fitted = copy.deepcopy(heads)
    fit_findings(fitted, [faces[row] for row in kept.tolist()], patches[torch.from_numpy(kept)])
    scores, kinds, strengths = list[float](), list[bool](), list[tuple[float, float]]()
    for row in judged.tolist():
        made = torch.tensor([TECHNIQUE_IDS[faces[row].technique]])
        with torch.no_grad():
            seen = fitted.wrong(*fitted.look(patches[row : row + 1].float()), made)
        changed = {touch.region: touch for touch in faces[row].touches}
        scores.append(_f1({touch.region for touch in findings(seen, made)[0]}, set(changed)))
        for region, touch in changed.items():
            place = REGIONS.index(region)
            kinds.append(list(Kind)[int(seen.kinds[0, place].argmax())] is touch.kind)
            strengths.append((float(seen.strengths[0, place]), touch.strength))
    truths = [{touch.region for touch in faces[row].touches} for row in judged.tolist()]
    return Found(
        region_f1=float(np.mean(scores)),
        blind_f1=_blind_f1(truths),
        kinds=float(np.mean(kinds)),
        strengths=float(np.corrcoef(np.array(strengths).T)[0, 1]),
        faces=len(judged),
    )


def _f1(named: AbstractSet[Region], changed: AbstractSet[Region]) -> float:
    return 2 * len(named & changed) / (len(named) + len(changed))


def _blind_f1(truths: Sequence[AbstractSet[Region]]) -> float:
    counts = range(1, MOST_ARTIFACTS + 1)
    answers = (set(some) for count in counts for some in itertools.combinations(PARTS, count))
    return max(float(np.mean([_f1(answer, truth) for truth in truths])) for answer in answers)
