"""The evidence map against masks: does the tower mark the forged pixels as foreign?

A forgery usually lies in the middle of a crop, so a map that is high there proves little. It is compared with the mean
mask of other faces, which saw no face, and with the maps of other faces.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from moderation.analysis import ForeignMap
from moderation.dfa.bench.ask import Judged
from moderation.dfa.bench.estimates import Estimate, another, auc, halves, mean_estimate, mean_estimates
from moderation.dfa.bench.tables import Cell, Table

#: Side at which maps and masks are compared, pixels: half of the input of `small`.
SIDE = 112
#: A pixel of a mask counts as forged from this value on.
HALF = 0.5


@dataclass(frozen=True, eq=False)
class Mapped:
    """One forged face: its map and its mask, both (SIDE, SIDE)."""

    group: str
    values: np.ndarray  # float32
    mask: np.ndarray  # bool, with both values


@dataclass(frozen=True)
class MapScores:
    """Pixel AUC, mean over faces."""

    model: Estimate
    #: Pixel AUC of the mean mask of other groups, used for every face.
    blind: Estimate
    #: Pixel AUC of other faces' maps.
    shuffled: Estimate


def mapped(group: str, values: np.ndarray, mask: np.ndarray) -> Mapped | None:
    """Scale a map (G, G) and a mask (S, S), in [0, 1], of one crop to `SIDE`. None when the mask is constant."""
    forged = _at_side(mask) >= HALF
    return Mapped(group, _at_side(values), forged) if 0 < forged.sum() < forged.size else None


def _at_side(values: np.ndarray) -> np.ndarray:
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def map_scores(faces: Sequence[Mapped]) -> MapScores | None:
    """The maps' scores and their controls. None without faces."""
    if not faces:
        return None
    aucs = [
        [auc(values.ravel(), face.mask.ravel()) for values in (face.values, blind, faces[other].values)]
        for face, blind, other in zip(faces, _blind(faces), another(len(faces)), strict=True)
    ]
    return MapScores(*mean_estimates(aucs, [face.group for face in faces]))


def _blind(faces: Sequence[Mapped]) -> list[np.ndarray]:
    """For each face, the mean mask of the other half of the groups. Zero when that half is empty."""
    half_of = halves(face.group for face in faces)
    means = [
        np.mean([face.mask for face in faces if half_of[face.group] != half] or [np.zeros((SIDE, SIDE))], axis=0)
        for half in (0, 1)
    ]  # fmt: skip
    return [means[half_of[face.group]] for face in faces]


# --- of a run


def map_table(judged: Sequence[Judged]) -> Table:
    """Scores by source, and the map's mean on bona fide faces."""
    faces: dict[str, list[Mapped]] = {}
    for j in judged:
        found = _mapped(j)
        if found is not None:
            faces.setdefault(j.item.source, []).append(found)
    everything = [face for found in faces.values() for face in found]
    rows = [_row("all", everything), *(_row(name, found) for name, found in sorted(faces.items()))]
    clean = [j for j in judged if not j.item.deepfake and j.foreign is not None]
    rows.append(("bona fide", len(clean), None, None, None, None, _level(clean)))
    return Table(
        name="map",
        title="The evidence map against masks",
        note=(
            "Pixel AUC of each face that is forged in part and whose mask is known; means over faces. A blind map is "
            "the mean mask of other groups. The last columns are the map's mean within masks and outside."
        ),
        columns=("faces", "n", "pixel AUC", "a blind map", "maps shuffled", "within", "outside"),
        rows=rows,
    )


def _mapped(judged: Judged) -> Mapped | None:
    if judged.foreign is None or judged.item.mask is None or not judged.item.deepfake:
        return None
    return mapped(
        judged.item.group, _values(judged.foreign), _in_crop(judged.item.mask.as_posix(), judged.foreign)
    )


def _values(foreign: ForeignMap) -> np.ndarray:
    return np.frombuffer(foreign.values, np.uint8).reshape(foreign.side, foreign.side) / np.float32(255)


def _in_crop(file: str, foreign: ForeignMap) -> np.ndarray:
    """A picture's mask, transformed into the map's crop. Zero outside the picture."""
    top_left, top_right, bottom_right, bottom_left = foreign.corners
    corners = tuple(value for point in (top_left, bottom_left, bottom_right, top_right) for value in point)
    side = 2 * SIDE
    mask = Image.open(file).convert("L")
    seen = mask.transform((side, side), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
    return np.asarray(seen, dtype=np.float32) / 255


def _row(name: str, faces: Sequence[Mapped]) -> Sequence[Cell]:
    scores = map_scores(faces)
    if scores is None:
        return (name, 0, None, None, None, None, None)
    levels = [[float(face.values[part].mean()) for part in (face.mask, ~face.mask)] for face in faces]
    means = mean_estimates(levels, [face.group for face in faces])
    return (name, len(faces), scores.model, scores.blind, scores.shuffled, *means)


def _level(judged: Sequence[Judged]) -> Estimate:
    return mean_estimate(
        [float(_values(j.foreign).mean()) for j in judged if j.foreign is not None],
        [j.item.group for j in judged],
    )


def by_kind(faces: Mapping[str, Sequence[Mapped]]) -> dict[str, MapScores]:
    """`map_scores` for each kind of face, without kinds that have no faces."""
    return {name: scores for name, found in faces.items() if (scores := map_scores(found)) is not None}
