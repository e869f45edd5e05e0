"""FS-like forgeries: a face laid over a face, either the same one (self-blended) or another person's.

Self-blended images follow the paper of Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images" (CVPR
2022). Their code is academic-only and was not read.
"""

import numpy as np
from PIL import Image

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import Kind, Touch
from moderation.dfa.instruct.draws import Rng
from moderation.dfa.instruct.forgery.forged import FULL_CHANGE, LEAST_CHANGE, Forgery, touch
from moderation.dfa.instruct.forgery.masks import (
    Geometry,
    Portrait,
    change_between,
    region_changes,
    swap_mask,
)
from moderation.dfa.instruct.forgery.photometry import (
    Encoding,
    blended,
    grained,
    matched_colour,
    recompressed,
    reduced,
    seamless,
    sharpened,
    shifted_colour,
    softened,
    transformed,
)
from moderation.dfa.instruct.forgery.redraw import redrawn

#: When the surroundings have the first kind of change, the region seems to have the second.
OPPOSITES = {Kind.SOFTER: Kind.SHARPER, Kind.SHARPER: Kind.SOFTER}


def self_blend(target: Portrait, rng: Rng) -> Forgery:
    """Lay a changed copy of a face over itself. Only the blending is foreign, so only blending can be learnt."""
    foreign, base = target.pixels, target.pixels
    changed, kind = _mismatched(target.pixels, target.face.unit, rng)
    if rng.random() < 0.5:
        foreign = changed
    else:
        # The surroundings are changed instead, so the face differs in the opposite way.
        base, kind = changed, OPPOSITES.get(kind, kind)
    foreign = transformed(foreign, _nudge(target.face, rng))
    mask = swap_mask(target.face, rng)
    pixels = _laid_over(base, foreign, mask, target.face, rng)
    facts = _facts(base, pixels, mask, target.face, kind)
    return Forgery(pixels, mask, Technique.FS, facts, "self_blend")


def other_face(target: Portrait, source: Portrait, rng: Rng) -> Forgery:
    """Lay another person's face over the target, landmarks on landmarks, as swap tools do."""
    foreign = laid_onto(target.face, source)
    mask = swap_mask(target.face, rng) * _seen(target.face, source.face)
    if rng.random() < 0.8:
        foreign = matched_colour(foreign, target.pixels, mask)
    foreign, kind = _mismatched(foreign, target.face.unit, rng, colour=rng.uniform(0, 0.7))
    pixels = _laid_over(target.pixels, foreign, mask, target.face, rng)
    facts = _facts(target.pixels, pixels, mask, target.face, kind)
    return Forgery(pixels, mask, Technique.FS, facts, "other_face")


def _mismatched(
    pixels: np.ndarray, unit: float, rng: Rng, colour: float | None = None
) -> tuple[np.ndarray, Kind]:
    """A copy with other colours and sharpness, as if from another picture, and the more visible of both changes."""
    amount = rng.uniform(0.2, 1.0) if colour is None else colour
    copy = shifted_colour(pixels, rng, amount)
    choice = rng.random()
    if choice < 0.25:
        return redrawn(copy, rng), Kind.SOFTER
    if choice < 0.45:
        return reduced(copy, rng.uniform(0.25, 0.7)), Kind.SOFTER
    if choice < 0.6:
        return softened(copy, rng.uniform(0.4, 1.2) * unit), Kind.SOFTER
    if choice < 0.8:
        return sharpened(copy, rng.uniform(0.5, 1.8)), Kind.SHARPER
    if choice < 0.9:
        return grained(copy, rng.uniform(2, 7), rng), Kind.SHARPER
    return recompressed(copy, Encoding("JPEG", int(rng.integers(25, 60)))), Kind.COLOUR


def _laid_over(
    base: np.ndarray, foreign: np.ndarray, mask: np.ndarray, face: Geometry, rng: Rng
) -> np.ndarray:
    if rng.random() < 0.2:
        return seamless(base, foreign, mask, rng.uniform(8, 16) * face.unit)
    return blended(base, foreign, mask)


def _nudge(face: Geometry, rng: Rng) -> np.ndarray:
    """A shift of up to ±3 % (x) and ±1.5 % (y) of the side, and a scale of .95 to 1.05 around the face's centre."""
    scale = rng.uniform(0.95, 1.05)
    shift = rng.uniform(-1, 1, 2) * (0.03, 0.015) * face.size
    centre = face.place([(56, 70)])[0]
    return np.hstack([np.eye(2) * scale, (centre * (1 - scale) + shift)[:, None]])


def _onto(target: Geometry, source: Geometry) -> np.ndarray:
    """(2, 3): the affine map from the target's pixels to the source's, by both landmarks."""
    linear = source.frame[:, :2] @ np.linalg.inv(target.frame[:, :2])
    return np.hstack([linear, (source.frame[:, 2] - linear @ target.frame[:, 2])[:, None]])


def laid_onto(target: Geometry, source: Portrait) -> np.ndarray:
    """The source's picture, with its face moved to the target's place."""
    return transformed(source.pixels, _onto(target, source.face))


def _seen(target: Geometry, source: Geometry) -> np.ndarray:
    """1 where the source's picture covers the target, with soft edges, (S, S)."""
    white = Image.new("RGB", (source.size, source.size), (255, 255, 255))
    laid = transformed(np.asarray(white), _onto(target, source))
    return softened(laid, 2.0)[..., 0].astype(np.float32) / 255 * (laid[..., 0] > 250)


def _facts(
    before: np.ndarray, after: np.ndarray, mask: np.ndarray, face: Geometry, kind: Kind
) -> tuple[Touch, ...]:
    """The seam, and up to three regions with the largest changes, as a careful person would name them."""
    touches = [Touch(Region.FACE_BOUNDARY, Kind.SEAM, seam_strength(before, after, mask))]
    changes = region_changes(before, after, face)
    least = max(LEAST_CHANGE, 0.6 * max(changes.values()))
    largest = sorted(changes.items(), key=lambda item: -item[1])[:3]
    touches += [touch(region, kind, change) for region, change in largest if change >= least]
    return tuple(touches)


def seam_strength(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> float:
    """In [0, 1]: the mean change at the mask's soft edge."""
    full = max(float(mask.max()), 1e-3)
    rim = (mask > 0.1 * full) & (mask < 0.9 * full)
    if not rim.any():
        return 0.0
    return min(float(change_between(before, after)[rim].mean()) / FULL_CHANGE, 1.0)
