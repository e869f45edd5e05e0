"""Whether a face's score depends on the regions that are named: each is hidden, and the model asked again.

Hiding changes a face by itself, and a smooth patch looks forged to a model that knows forgeries. So a region is hidden
in several ways, and a control region of equal area, elsewhere on the same face, is hidden in the same ways: what counts
is by how much more the score falls without the region than without the control.

S pixels of a crop's side. Masks are (S, S) bool.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from moderation.analysis import Artifact, Effect, FaceAnalysis, Label, Point, Region
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.pixels import in_crop
from moderation.dfa.gpt.regions import outlines

#: A region that covers less of a crop is too small to be hidden, or lies outside of it.
SMALLEST = 0.004
#: Parts of a crop's side: the soft edge of what is hidden, the width of a blur, and the grain that a fill keeps.
EDGE, BLUR, GRAIN = 0.012, 0.07, 0.0045
#: The part of known pixels around one, from which on it is filled with their mean.
ENOUGH = 0.1
#: The boundary of a face is its outline without so much of it, from the middle; its skin is hidden so far from there,
#: which leaves room for a control.
INSIDE, SKIN = 0.8, 0.9
#: What the skin is not.
FEATURES = (Region.EYES, Region.NOSE, Region.MOUTH)


@dataclass(frozen=True, eq=False)
class Hidden:
    """What is asked to measure one artifact's effect: pictures without its region, and without the control."""

    #: Index into the face's rationale.
    place: int
    #: One for each fill, (S, S, 3) uint8.
    without: tuple[np.ndarray, ...]
    control: tuple[np.ndarray, ...]

    @property
    def pictures(self) -> tuple[np.ndarray, ...]:
        return self.without + self.control


def hide(crop: FaceCrop, said: FaceAnalysis, *, at_most: int) -> tuple[Hidden, ...]:
    """What is to be asked about the first `at_most` artifacts of a face that is called a deepfake.

    Left out are artifacts without a place on the face, and those that leave no room for a control.
    """
    if said.verdict.label is not Label.DEEPFAKE or said.verdict.margin is None:
        return ()
    places = [(place, mask_of(artifact, crop)) for place, artifact in enumerate(said.rationale)]
    named = [mask for _, mask in places if mask is not None]
    if not named:
        return ()
    filler = Filler(crop.pixels)
    found: list[Hidden] = []
    for place, mask in places:
        if mask is None or len(found) == at_most:
            continue
        control = control_for(mask, crop, named=named)
        if control is not None:
            spared = ~(mask | control)
            found.append(Hidden(place, filler.fills(mask, spared), filler.fills(control, spared)))
    return tuple(found)


def variants(crop: FaceCrop, hidden: Sequence[Hidden]) -> list[FaceCrop]:
    """The pictures to ask about, in the order in which `with_effects` takes their margins."""
    return [FaceCrop(crop.face, pixels, verdict_only=True) for one in hidden for pixels in one.pictures]


def margin_of(answer: FaceAnalysis) -> float:
    """What was said of a variant."""
    margin = answer.verdict.margin
    assert margin is not None, "a face that the model was asked about has a margin"
    return margin


def with_effects(
    said: FaceAnalysis,
    hidden: Sequence[Hidden],
    margins: Iterator[float],
    score: Callable[[float], float],
) -> FaceAnalysis:
    """The face with the effect of each artifact that was hidden; `margins` are those of `variants`, in their order."""
    margin = said.verdict.margin
    if margin is None:
        return said
    rationale = list(said.rationale)
    for one in hidden:
        without = float(np.mean([next(margins) for _ in one.without]))
        control = float(np.mean([next(margins) for _ in one.control]))
        effect = Effect(
            score_without=score(without),
            margin_fall=margin - without,
            control_score=score(control),
            control_fall=margin - control,
        )
        rationale[one.place] = replace(rationale[one.place], effect=effect)
    return replace(said, rationale=tuple(rationale))


# --- where


def mask_of(artifact: Artifact, crop: FaceCrop) -> np.ndarray | None:
    """The pixels of an artifact's regions in the crop. None when too few of them are there, or the place is unknown."""
    mask = np.zeros(crop.pixels.shape[:2], dtype=bool)
    for region in artifact.regions:
        mask |= _region(region, crop)
    return mask if mask.mean() >= SMALLEST else None


def face_mask(crop: FaceCrop) -> np.ndarray:
    """The pixels of the face itself."""
    return _drawn(outlines([Region.FACE_BOUNDARY], crop.face), crop)


def _region(region: Region, crop: FaceCrop) -> np.ndarray:
    parts = outlines([region], crop.face)
    if region is Region.FACE_BOUNDARY:
        return _drawn(parts, crop) & ~_drawn([_towards_middle(part, INSIDE) for part in parts], crop)
    if region is Region.SKIN:
        inner = [_towards_middle(part, SKIN) for part in parts]
        return _drawn(inner, crop) & ~_drawn(outlines(FEATURES, crop.face), crop)
    return _drawn(parts, crop)


def _towards_middle(part: Sequence[Point], share: float) -> list[Point]:
    x, y = (sum(values) / len(part) for values in zip(*part, strict=True))
    return [Point(x + share * (p.x - x), y + share * (p.y - y)) for p in part]


def _drawn(parts: Sequence[Sequence[Point]], crop: FaceCrop) -> np.ndarray:
    size = crop.pixels.shape[0]
    sheet = Image.new("1", (size, size))
    pen = ImageDraw.Draw(sheet)
    for part in parts:
        pen.polygon([(p.x, p.y) for p in in_crop(crop.face, size, part)], fill=1)
    return np.array(sheet, dtype=bool)


def control_for(mask: np.ndarray, crop: FaceCrop, *, named: Sequence[np.ndarray]) -> np.ndarray | None:
    """As many pixels of the face as the region has, none of them in it and as few as can be in what else is named.

    The region itself moved elsewhere on the face, as near to the face's middle as it goes; where it fits nowhere, the
    pixels of the face that lie farthest from it. None when the face has no room for so many.
    """
    face = face_mask(crop)
    room = face & ~(_spread(mask) > EDGE)
    others = np.logical_or.reduce([face & False, *named]) & ~mask
    moved = _moved(mask, room, others, face)
    return moved if moved is not None else _farthest(mask, room, others)


def _moved(mask: np.ndarray, room: np.ndarray, others: np.ndarray, face: np.ndarray) -> np.ndarray | None:
    """The region moved to where all of it has room. None when it fits nowhere."""
    size, area = len(mask), int(mask.sum())
    fits = _overlaps(mask, room) > area - 0.5  # (2S, 2S): by how far down and right
    if not fits.any():
        return None
    down, right = (np.fft.fftfreq(2 * size, 1 / (2 * size)) for _ in range(2))
    away = _middle(face) - _middle(mask)
    far = np.hypot(down[:, None] - away[0], right[None] - away[1])
    cost = np.where(fits, _overlaps(mask, others).round() + far / (4 * size), np.inf)
    y, x = np.unravel_index(int(cost.argmin()), cost.shape)
    return np.roll(mask, (int(down[y]), int(right[x])), axis=(0, 1))


def _overlaps(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(2S, 2S): how many pixels of the mask lie on the other when it is moved so far, round the edges."""
    shape = (2 * len(mask), 2 * len(mask))
    found = np.fft.rfft2(mask, shape).conj() * np.fft.rfft2(other, shape)
    return np.fft.irfft2(found, shape)


def _middle(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)


def _farthest(mask: np.ndarray, room: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    area = int(mask.sum())
    if room.sum() < area:
        return None
    nearness = _smooth(mask.astype(np.float32), 0.25 * len(mask)) + others
    order = np.argsort(np.where(room, nearness, np.inf), axis=None, kind="stable")
    chosen = np.zeros(mask.size, dtype=bool)
    chosen[order[:area]] = True
    return chosen.reshape(mask.shape)


# --- how


class Filler:
    """One picture, in which pixels are hidden: surroundings diffused in, blurred, and grey."""

    def __init__(self, pixels: np.ndarray) -> None:
        picture = pixels.astype(np.float32)
        size = len(picture)
        self._picture = picture
        self._blurred = _smooth(picture, BLUR * size)
        self._grain = picture - _smooth(picture, GRAIN * size)

    def fills(self, mask: np.ndarray, spared: np.ndarray) -> tuple[np.ndarray, ...]:
        """The picture with the mask's pixels hidden in each way.

        `spared` pixels give the diffused fill its grain: a patch without any would stand out by that alone.
        """
        spread = _spread(mask)
        edge = np.clip(4 * spread, 0, 1)[..., None]  # 1 in the mask and its corners, falling to 0 around it
        hidden = spread > EDGE
        flown = _flown_in(self._picture, hidden)
        ways = (
            flown + self._grain_for(hidden, spared),
            self._blurred,
            np.full_like(self._picture, 127),
        )
        mixed = [edge * way + (1 - edge) * self._picture for way in ways]
        return tuple(each.round().clip(0, 255).astype(np.uint8) for each in mixed)

    def _grain_for(self, hidden: np.ndarray, spared: np.ndarray) -> np.ndarray:
        """Grain and no edges: what is larger than most of it belongs to an eye, or teeth."""
        laid = np.zeros_like(self._picture)
        grain = self._grain[spared]
        if len(grain):
            most = 2 * np.median(np.abs(grain))
            laid[hidden] = np.resize(grain.clip(-most, most), (int(hidden.sum()), 3))
        return laid


def _flown_in(picture: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """What lies around flows in, from near where it can and from far where it must. At half the size: it is smooth."""
    known = _halved((~hidden).astype(np.float32)[..., None])
    colours = _halved(picture * ~hidden[..., None])
    weight, filled = known, colours
    width = 1.0
    while (weight < ENOUGH).any() and width < 2 * len(known):
        reached = _smooth(known, width)
        lacking = weight < ENOUGH
        weight = np.where(lacking, reached, weight)
        filled = np.where(lacking, _smooth(colours, width), filled)
        width *= 2
    even = _smooth(filled / np.maximum(weight, 1e-6), 2.0)
    whole = even.repeat(2, axis=0).repeat(2, axis=1)[: len(picture), : len(picture)]
    return np.where(hidden[..., None], _smooth(whole, 1.5), picture)


def _halved(values: np.ndarray) -> np.ndarray:
    """(S, S, C) -> (S/2, S/2, C), the last row and column of an odd size twice."""
    odd = len(values) % 2
    even = np.pad(values, ((0, odd), (0, odd), (0, 0)), mode="edge")
    half = len(even) // 2
    return even.reshape(half, 2, half, 2, -1).mean(axis=(1, 3))


def _spread(mask: np.ndarray) -> np.ndarray:
    """(S, S) in [0, 1]: the mask with a soft edge around it."""
    return _smooth(mask.astype(np.float32), EDGE * len(mask))


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    """(S, S) or (S, S, C), each value as the mean of its surroundings, by a Gaussian that wide."""
    kernel = _kernel(len(values), round(width, 3))
    if values.ndim == 2:
        return kernel @ values @ kernel.T
    flat = np.ascontiguousarray(np.moveaxis(values, 2, 0))  # (C, S, S): in the order in which products read
    return np.moveaxis(kernel @ flat @ kernel.T, 0, 2)


@lru_cache(maxsize=64)
def _kernel(size: int, width: float) -> np.ndarray:
    """(S, S): row by row the weights of a Gaussian, whole at the edges."""
    at = np.arange(size, dtype=np.float32)
    weights = np.exp(-0.5 * ((at[:, None] - at[None]) / max(width, 0.3)) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)
