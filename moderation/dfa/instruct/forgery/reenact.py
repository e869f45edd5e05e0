"""FR-like forgeries: the same face with another expression. Smooth fields bend mouth, jaw, eyes, brows or cheeks.

A real reenactment draws a new face from another's movement. Here a face is bent and often redrawn, which gives similar
traces: stretched texture, lost detail, a decoder's traces, an opened mouth with invented content.
"""

from collections.abc import Callable

import numpy as np

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import Kind, Touch
from moderation.dfa.instruct.draws import Rng, picked
from moderation.dfa.instruct.forgery.forged import FULL_CHANGE, Forgery, touch
from moderation.dfa.instruct.forgery.masks import (
    Geometry,
    Portrait,
    blurred,
    change_between,
    deformed_polygon,
    fill,
    mean_within,
    region_changes,
    swap_mask,
)
from moderation.dfa.instruct.forgery.photometry import blended, displaced, reduced, shifted_colour, softened
from moderation.dfa.instruct.forgery.redraw import redrawn

#: Least mean change of a named region, in grey levels. Smooth skin may be bent without a trace.
LEAST_BENT = 2.0


def reenact(target: Portrait, rng: Rng) -> Forgery:
    """Bend one or two parts of a face, then remove detail there like a generator's decoder; or only change the lips."""
    if rng.random() < 0.35:
        return speak(target, rng)
    chosen = rng.choice(list(MOVES), size=1 + int(rng.random() < 0.35), replace=False).tolist()
    flow = sum((MOVES[name](target.face, rng) for name in chosen), np.zeros((*target.pixels.shape[:2], 2)))
    bent = displaced(target.pixels, flow)
    mask = _moved(flow, target.face)
    if rng.random() < 0.35:  # many generators redraw the whole face to move a part of it
        mask = np.maximum(mask, swap_mask(target.face, rng))
    if "mouth" in chosen and rng.random() < 0.5:
        bent = _mouth_filled(bent, target.face, rng)
    pixels = blended(target.pixels, _decoded(bent, target.face, rng), mask)
    recipe = "+".join(sorted(chosen)) + "_bent"
    return Forgery(pixels, mask, Technique.FR, _facts(target, pixels, chosen), recipe)


def speak(target: Portrait, rng: Rng) -> Forgery:
    """Change only the lips: a small generator redraws the mouth, opened or closed.

    Lip synchronisers draw the lower half of a face at their own size, often 96 pixels, and paste it back (Prajwal et
    al., "A Lip Sync Expert Is All You Need", ACM MM 2020).
    """
    face = target.face
    bent = displaced(target.pixels, _mouth(face, rng) * rng.uniform(0.3, 1.2))
    if rng.random() < 0.4:
        bent = _mouth_filled(bent, face, rng)
    if rng.random() < 0.75:  # drawn at the generator's size
        bent = reduced(bent, min(rng.uniform(80, 170) / (112 * face.unit), 1.0))
    if rng.random() < 0.7:
        bent = redrawn(bent, rng)
    bent = shifted_colour(bent, rng, rng.uniform(0, 0.15))
    polygon = deformed_polygon(face.place(picked(MOUTH_SHAPES, rng)), 0.06, rng)
    mask = blurred(fill([polygon], face.size), rng.uniform(0.4, 3) * face.unit)
    pixels = blended(target.pixels, bent, mask)
    change = region_changes(target.pixels, pixels, face)[Region.MOUTH]
    kind = Kind.SOFTER if _detail(pixels, mask) < 0.85 * _detail(target.pixels, mask) else Kind.WARPED
    return Forgery(pixels, mask, Technique.FR, (touch(Region.MOUTH, kind, change),), "lips_redrawn")


def _detail(pixels: np.ndarray, mask: np.ndarray) -> float:
    """Mean fine detail under a mask, grey levels."""
    return mean_within(change_between(softened(pixels, 1.0), pixels), mask)


#: The areas that lip synchronisers paste, in canonical pixels: the mouth, or the lower half of the face.
MOUTH_SHAPES = (
    ((34, 84), (44, 78), (68, 78), (78, 84), (80, 96), (70, 108), (42, 108), (32, 96)),
    ((28, 74), (84, 74), (86, 96), (74, 116), (38, 116), (26, 96)),
    ((20, 66), (92, 66), (92, 120), (20, 120)),
)


def _bump(face: Geometry, centre: tuple[float, float], push: tuple[float, float], reach: float) -> np.ndarray:
    """A flow that moves a place by `push`, fading as a Gaussian with standard deviation `reach`; canonical pixels."""
    x, y = face.place([centre])[0]
    steps = np.arange(face.size)
    across, down = steps[None, :] - x, steps[:, None] - y
    weight = np.exp(-(across**2 + down**2) / (2 * (reach * face.unit) ** 2))
    moved = face.frame[:, :2] @ np.asarray(push)
    # Negative: `displaced` takes the place that a pixel comes from.
    return -weight[..., None] * moved


def _either(rng: Rng, least: float, most: float) -> float:
    return float(rng.uniform(least, most) * rng.choice([-1, 1]))


def _mouth(face: Geometry, rng: Rng) -> np.ndarray:
    """Move the corners up or down and out or in, and the lips apart or together."""
    lift, spread, apart = _either(rng, 2, 6), _either(rng, 1, 5), _either(rng, 2, 5)
    return (
        _bump(face, (41, 92), (-spread, -lift), 8)
        + _bump(face, (71, 92), (spread, -lift), 8)
        + _bump(face, (56, 98), (0, apart), 9)
        + _bump(face, (56, 87), (0, -apart / 2), 7)
    )


def _jaw(face: Geometry, rng: Rng) -> np.ndarray:
    drop, aside = _either(rng, 4, 9), rng.uniform(-4, 4)
    return _bump(face, (56, 114), (aside, drop), 16) + _bump(face, (56, 100), (aside / 2, drop / 2), 12)


def _eyes(face: Geometry, rng: Rng) -> np.ndarray:
    """Move lids and gaze, almost equally on both sides."""
    aside, lid = _either(rng, 1.5, 4), _either(rng, 1.5, 4)
    uneven = rng.uniform(0.6, 1.4)
    return (
        _bump(face, (38, 52), (aside, 0), 5)
        + _bump(face, (74, 52), (aside * uneven, 0), 5)
        + _bump(face, (38, 46), (0, lid), 6)
        + _bump(face, (74, 46), (0, lid * uneven), 6)
    )


def _brows(face: Geometry, rng: Rng) -> np.ndarray:
    lift = _either(rng, 3, 6)
    return _bump(face, (38, 38), (0, -lift), 9) + _bump(face, (74, 38), (0, -lift), 9)


def _cheeks(face: Geometry, rng: Rng) -> np.ndarray:
    swell = _either(rng, 3, 7)
    return _bump(face, (26, 78), (-swell, 0), 10) + _bump(face, (86, 78), (swell, 0), 10)


MOVES: dict[str, Callable[[Geometry, Rng], np.ndarray]] = {
    "mouth": _mouth,
    "jaw": _jaw,
    "eyes": _eyes,
    "brows": _brows,
    "cheeks": _cheeks,
}
MOVED_REGIONS = {
    "mouth": Region.MOUTH,
    "jaw": Region.JAWLINE,
    "eyes": Region.EYES,
    "brows": Region.FOREHEAD,
    "cheeks": Region.CHEEKS,
}


def _moved(flow: np.ndarray, face: Geometry) -> np.ndarray:
    """A soft mask of the pixels that moved by more than about a third of a canonical pixel."""
    length = np.linalg.norm(flow, axis=2) / face.unit
    return blurred((length > 0.35).astype(np.float32), 1.5 * face.unit)


def _mouth_filled(pixels: np.ndarray, face: Geometry, rng: Rng) -> np.ndarray:
    """Add an invented inner mouth: a dark slit, sometimes with a row of teeth."""
    half, high = rng.uniform(8, 13), rng.uniform(1.5, 4)
    turns = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    slit = fill([face.place([(56 + half * np.cos(t), 93 + high * np.sin(t)) for t in turns])], face.size)
    dark = np.full_like(pixels, 0) + np.array((70, 30, 30), np.uint8)
    filled = blended(pixels, dark, blurred(slit, 0.8 * face.unit) * rng.uniform(0.5, 0.9))
    if rng.random() < 0.5:
        teeth = fill([face.place([(48, 91), (64, 91), (63, 91 + high), (49, 91 + high)])], face.size)
        light = np.full_like(pixels, 0) + np.array((205, 195, 185), np.uint8)
        filled = blended(filled, light, blurred(teeth, 0.8 * face.unit) * rng.uniform(0.4, 0.8))
    return filled


def _decoded(pixels: np.ndarray, face: Geometry, rng: Rng) -> np.ndarray:
    """Redraw by a decoder, or only remove the detail that one loses; then shift the colours slightly."""
    choice = rng.random()
    if choice < 0.45:
        drawn = redrawn(pixels, rng)
    elif choice < 0.8:
        drawn = reduced(pixels, rng.uniform(0.35, 0.75))
    else:
        drawn = softened(pixels, 0.4 * face.unit)
    return shifted_colour(drawn, rng, rng.uniform(0, 0.25))


def _facts(target: Portrait, pixels: np.ndarray, chosen: list[str]) -> tuple[Touch, ...]:
    """The bent parts, strongest first. At least one is named, even when its change is small."""
    changes = region_changes(target.pixels, pixels, target.face)
    regions = [MOVED_REGIONS[name] for name in chosen]
    facts = [touch(region, Kind.WARPED, changes[region]) for region in regions]
    facts.sort(key=lambda fact: -fact.strength)
    seen = [fact for fact in facts if fact.strength * FULL_CHANGE >= LEAST_BENT]
    return tuple(seen or facts[:1])
