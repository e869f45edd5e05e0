"""Does a face's score depend on the named regions? Each region is hidden, and the model is asked again.

Beside the region, a control of equal area elsewhere on the same face is hidden. The evidence is how much more the score
falls without the region than without the control. What fills a hidden region looks forged to a model that knows
forgeries. So a tower of patches leaves hidden ones out, and nothing is filled. For other towers a region is filled in
several ways.

S pixels of a crop's side. Masks are (S, S) bool.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from moderation.analysis import Artifact, Effect, FaceAnalysis, Label, Point, Region
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.regions import drawn, outlines

#: Smallest share of a crop that can be hidden. A region below it is too small, or lies outside the crop.
SMALLEST = 0.004
#: Widths as shares of a crop's side: of the soft edge of a hidden region, of the blur, and of the grain a fill keeps.
EDGE, BLUR, GRAIN = 0.012, 0.07, 0.0045
#: A pixel is filled with the mean of its surroundings once this share of them is known.
ENOUGH = 0.1
#: Shares of the outline, scaled towards its middle. The face boundary lies outside `INSIDE`; skin is hidden within
#: `SKIN`, which leaves room for a control.
INSIDE, SKIN = 0.8, 0.9
#: Features that are not skin.
FEATURES = (Region.EYES, Region.NOSE, Region.MOUTH)


@dataclass(frozen=True, eq=False)
class Hidden:
    """The pictures that measure one artifact's effect: without its region, and without the control."""

    #: Index into the face's rationale.
    place: int
    #: One picture for each fill, (S, S, 3) uint8. Where nothing is filled: the crop itself.
    without: tuple[np.ndarray, ...]
    control: tuple[np.ndarray, ...]
    #: (S, S) bool: the pixels that are hidden in each.
    region: np.ndarray
    elsewhere: np.ndarray

    @property
    def ways(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pictures with what is hidden in them."""
        yield from ((pixels, self.region) for pixels in self.without)
        yield from ((pixels, self.elsewhere) for pixels in self.control)


def hide(crop: FaceCrop, analysis: FaceAnalysis, *, at_most: int, filled: bool = True) -> tuple[Hidden, ...]:
    """Hide the first `at_most` artifacts of a face whose verdict is deepfake.

    Artifacts without a place on the face are left out, and so are those that leave no room for a control. Hidden pixels
    need not be `filled` for a tower that leaves them out.
    """
    if analysis.verdict.label is not Label.DEEPFAKE or analysis.verdict.margin is None:
        return ()
    places = [(place, mask_of(artifact, crop)) for place, artifact in enumerate(analysis.rationale)]
    named = [mask for _, mask in places if mask is not None]
    if not named:
        return ()
    fills = fills_of(crop.pixels, filled=filled)
    found: list[Hidden] = []
    for place, mask in places:
        if mask is None or len(found) == at_most:
            continue
        control = control_for(mask, crop, named=named)
        if control is not None:
            spared = ~(mask | control)
            ways = fills(mask, spared), fills(control, spared)
            found.append(Hidden(place, *ways, around(mask), around(control)))
    return tuple(found)


def variants(crop: FaceCrop, hidden: Sequence[Hidden]) -> list[FaceCrop]:
    """The pictures to ask about. `with_effects` takes their margins in this order."""
    return [
        FaceCrop(crop.face, pixels, verdict_only=True, hidden=mask)
        for region in hidden
        for pixels, mask in region.ways
    ]


def margin_of(variant: FaceAnalysis) -> float:
    margin = variant.verdict.margin
    assert margin is not None, "a face that the model was asked about has a margin"
    return margin


def with_effects(
    analysis: FaceAnalysis,
    hidden: Sequence[Hidden],
    margins: Iterator[float],
    score: Callable[[float], float],
) -> FaceAnalysis:
    """The analysis with the effect of each hidden artifact. `margins` are those of `variants`, in order."""
    margin = analysis.verdict.margin
    if margin is None:
        return analysis
    rationale = list(analysis.rationale)
    for region in hidden:
        without = float(np.mean([next(margins) for _ in region.without]))
        control = float(np.mean([next(margins) for _ in region.control]))
        effect = Effect(
            score_without=score(without),
            margin_fall=margin - without,
            control_score=score(control),
            control_fall=margin - control,
        )
        rationale[region.place] = replace(rationale[region.place], effect=effect)
    return replace(analysis, rationale=tuple(rationale))


# --- where


def mask_of(artifact: Artifact, crop: FaceCrop) -> np.ndarray | None:
    """The pixels of an artifact's regions in the crop. None when they are too few, or the place is unknown."""
    mask = np.zeros(crop.pixels.shape[:2], dtype=bool)
    for region in artifact.regions:
        mask |= _region(region, crop)
    return mask if mask.mean() >= SMALLEST else None


def face_mask(crop: FaceCrop) -> np.ndarray:
    """The pixels of the face itself."""
    return drawn(outlines([Region.FACE_BOUNDARY], crop.face), crop.face, len(crop.pixels))


def _region(region: Region, crop: FaceCrop) -> np.ndarray:
    parts, draw = outlines([region], crop.face), partial(drawn, face=crop.face, size=len(crop.pixels))
    if region is Region.FACE_BOUNDARY:
        return draw(parts) & ~draw([_towards_middle(part, INSIDE) for part in parts])
    if region is Region.SKIN:
        return draw([_towards_middle(part, SKIN) for part in parts]) & ~draw(outlines(FEATURES, crop.face))
    return draw(parts)


def _towards_middle(part: Sequence[Point], share: float) -> list[Point]:
    x, y = (sum(values) / len(part) for values in zip(*part, strict=True))
    return [Point(x + share * (p.x - x), y + share * (p.y - y)) for p in part]


def control_for(mask: np.ndarray, crop: FaceCrop, *, named: Sequence[np.ndarray]) -> np.ndarray | None:
    """A control: as many pixels of the face as the region, outside it, and overlapping other named regions least.

    It is the region itself, moved on the face and as near to its middle as possible. If that fits nowhere, it is the
    pixels of the face farthest from the region. None when the face has too few pixels left.
    """
    face = face_mask(crop)
    room = face & ~around(mask)
    others = np.logical_or.reduce([face & False, *named]) & ~mask
    moved = _moved(mask, room, others, face)
    return moved if moved is not None else _farthest(mask, room, others)


def _moved(mask: np.ndarray, room: np.ndarray, others: np.ndarray, face: np.ndarray) -> np.ndarray | None:
    """The region moved to a place with room for all of it. None when there is no such place."""
    size, area = len(mask), int(mask.sum())
    fits = _overlaps(mask, room) > area - 0.5  # (2S, 2S), by shift down and right
    if not fits.any():
        return None
    down, right = (np.fft.fftfreq(2 * size, 1 / (2 * size)) for _ in range(2))
    away = _middle(face) - _middle(mask)
    far = np.hypot(down[:, None] - away[0], right[None] - away[1])
    cost = np.where(fits, _overlaps(mask, others).round() + far / (4 * size), np.inf)
    y, x = np.unravel_index(int(cost.argmin()), cost.shape)
    return np.roll(mask, (int(down[y]), int(right[x])), axis=(0, 1))


def _overlaps(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(2S, 2S): how many pixels the mask shares with the other, for each shift down and right (cyclic)."""
    shape = (2 * len(mask), 2 * len(mask))
    found = np.fft.rfft2(mask, shape).conj() * np.fft.rfft2(other, shape)
    return np.fft.irfft2(found, shape)


def _middle(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)


def _farthest(mask: np.ndarray, room: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    nearness = _smooth(mask.astype(np.float32), 0.25 * len(mask)) + others
    return _lowest(nearness, room, int(mask.sum()))


def most_like(wanted: np.ndarray, room: np.ndarray, area: int, *, spared: np.ndarray) -> np.ndarray | None:
    """`area` pixels of the room: first the wanted ones, then those nearest to them, and the spared ones last.

    None when the room has fewer pixels.
    """
    nearness = wanted + _smooth(wanted.astype(np.float32), 0.1 * len(wanted)) - 4 * spared
    return _lowest(-nearness, room, area)


def _lowest(values: np.ndarray, room: np.ndarray, area: int) -> np.ndarray | None:
    """The `area` pixels of the room with the lowest values. None when it has fewer."""
    if room.sum() < area:
        return None
    order = np.argsort(np.where(room, values, np.inf), axis=None, kind="stable")
    lowest = np.zeros(values.size, dtype=bool)
    lowest[order[:area]] = True
    return lowest.reshape(values.shape)


def around(mask: np.ndarray) -> np.ndarray:
    """The pixels that change when the mask is hidden: the mask and its soft edge."""
    return _spread(mask) > EDGE


# --- how


#: From the pixels to hide, and those that may lend their grain, to the picture with them hidden in each way.
Fills = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


def fills_of(pixels: np.ndarray, *, filled: bool) -> Fills:
    """How pixels of a picture are hidden: in the ways of `Filler`, or left as they are for a tower that skips them."""
    return Filler(pixels).fills if filled else lambda _mask, _spared: (pixels,)


class Filler:
    """Hides pixels of one picture in three ways: surroundings diffused in, blurred, and grey."""

    def __init__(self, pixels: np.ndarray) -> None:
        picture = pixels.astype(np.float32)
        size = len(picture)
        self._picture = picture
        self._blurred = _smooth(picture, BLUR * size)
        self._grain = picture - _smooth(picture, GRAIN * size)

    def fills(self, mask: np.ndarray, spared: np.ndarray) -> tuple[np.ndarray, ...]:
        """The picture with the mask's pixels hidden in each way.

        The diffused fill takes its grain from `spared` pixels: without grain alone it would stand out.
        """
        spread = _spread(mask)
        edge = np.clip(4 * spread, 0, 1)[..., None]  # 1 in the mask and its corners, falling to 0 around it
        hidden = spread > EDGE
        flown = _flown_in(self._picture, hidden)
        ways = flown + self._grain_for(hidden, spared), self._blurred, np.full_like(self._picture, 127)
        mixed = [edge * way + (1 - edge) * self._picture for way in ways]
        return tuple(fill.round().clip(0, 255).astype(np.uint8) for fill in mixed)

    def _grain_for(self, hidden: np.ndarray, spared: np.ndarray) -> np.ndarray:
        """Grain without edges. Larger values are clipped: they belong to an eye or teeth."""
        laid = np.zeros_like(self._picture)
        grain = self._grain[spared]
        if len(grain):
            most = 2 * np.median(np.abs(grain))
            laid[hidden] = np.resize(grain.clip(-most, most), (int(hidden.sum()), 3))
        return laid


def _flown_in(picture: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The picture with its surroundings diffused into the hidden pixels, from as near as possible.

    The fill is smooth, so it is computed at half the size.
    """
    weight = known = _halved((~hidden).astype(np.float32)[..., None])
    filled = colours = _halved(picture * ~hidden[..., None])
    width = 1.0
    while (lacking := weight < ENOUGH).any() and width < 2 * len(known):
        weight = np.where(lacking, _smooth(known, width), weight)
        filled = np.where(lacking, _smooth(colours, width), filled)
        width *= 2
    even = _smooth(filled / np.maximum(weight, 1e-6), 2.0)
    whole = even.repeat(2, axis=0).repeat(2, axis=1)[: len(picture), : len(picture)]
    return np.where(hidden[..., None], _smooth(whole, 1.5), picture)


def _halved(values: np.ndarray) -> np.ndarray:
    """(S, S, C) -> (S/2, S/2, C). An odd size repeats its last row and column."""
    odd = len(values) % 2
    even = np.pad(values, ((0, odd), (0, odd), (0, 0)), mode="edge")
    half = len(even) // 2
    return even.reshape(half, 2, half, 2, -1).mean(axis=(1, 3))


def _spread(mask: np.ndarray) -> np.ndarray:
    """(S, S) in [0, 1]: the mask with a soft edge around it."""
    return _smooth(mask.astype(np.float32), EDGE * len(mask))


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    """(S, S) or (S, S, C), smoothed by a Gaussian with a standard deviation of `width` pixels."""
    kernel = _kernel(len(values), round(width, 3))
    if values.ndim == 2:
        return kernel @ values @ kernel.T
    flat = np.ascontiguousarray(np.moveaxis(values, 2, 0))  # (C, S, S), the order that matrix products read
    return np.moveaxis(kernel @ flat @ kernel.T, 0, 2)


@lru_cache(maxsize=64)
def _kernel(size: int, width: float) -> np.ndarray:
    """(S, S): each row holds a Gaussian's weights, which sum to 1 at the edges too."""
    at = np.arange(size, dtype=np.float32)
    weights = np.exp(-0.5 * ((at[:, None] - at[None]) / max(width, 0.3)) ** 2)
    return weights / weights.sum(axis=1, keepdims=True)
