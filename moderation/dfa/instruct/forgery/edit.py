"""FE-like forgeries: one or two features of a face are replaced, smoothed, recoloured or redrawn, and nothing else."""

import numpy as np

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import Kind, Touch
from moderation.dfa.instruct.draws import Rng
from moderation.dfa.instruct.forgery.forged import LEAST_CHANGE, Forgery, touch
from moderation.dfa.instruct.forgery.masks import (
    Geometry,
    Portrait,
    blurred,
    change_between,
    feature_mask,
    mean_within,
    outline_mask,
    region_changes,
)
from moderation.dfa.instruct.forgery.photometry import (
    blended,
    clipped,
    matched_colour,
    reduced,
    seamless,
    sharpened,
    shifted_colour,
    softened,
)
from moderation.dfa.instruct.forgery.redraw import redrawn
from moderation.dfa.instruct.forgery.swap import laid_onto

#: The regions to edit.
EDITED = (Region.EYES, Region.NOSE, Region.MOUTH, Region.FOREHEAD, Region.CHEEKS, Region.JAWLINE)


def edit(target: Portrait, source: Portrait, rng: Rng) -> Forgery:
    """Change one feature, sometimes two, or smooth the whole skin."""
    if rng.random() < 0.15:
        return skin_smoothed(target, rng)
    regions = rng.choice(len(EDITED), size=2 if rng.random() < 0.3 else 1, replace=False)
    pixels, mask = target.pixels, np.zeros(target.pixels.shape[:2], np.float32)
    touches: list[Touch] = []
    recipes: list[str] = []
    for region in (EDITED[index] for index in regions):
        before = pixels
        patch = feature_mask(target.face, region, rng)
        pixels, kind = _edited(pixels, target, source, patch, rng)
        change = region_changes(before, pixels, target.face)[region]
        if change < LEAST_CHANGE:
            pixels, kind = blended(before, _redrawn(before, target.face, rng), patch), Kind.SMOOTHED
            change = region_changes(before, pixels, target.face)[region]
        touches.append(touch(region, kind, change))
        recipes.append(f"{region}_{kind}")
        mask = np.maximum(mask, patch)
    return Forgery(pixels, mask, Technique.FE, tuple(touches), "+".join(recipes))


def skin_smoothed(target: Portrait, rng: Rng) -> Forgery:
    """Remove the skin's pores and keep eyes and mouth sharp, as beauty filters do."""
    mask = outline_mask(target.face)
    for region in (Region.EYES, Region.MOUTH):
        mask = mask * (1 - feature_mask(target.face, region, rng))
    mask = blurred(mask, 2.0 * target.face.unit)
    smooth = softened(target.pixels, rng.uniform(2.0, 4.0) * target.face.unit)
    shifted = shifted_colour(smooth, rng, rng.uniform(0.1, 0.5))
    pixels = blended(target.pixels, shifted, mask * rng.uniform(0.7, 1.0))
    fact = touch(Region.SKIN, Kind.SMOOTHED, mean_within(change_between(target.pixels, pixels), mask))
    return Forgery(pixels, mask, Technique.FE, (fact,), "skin_smoothed")


def _edited(
    pixels: np.ndarray, target: Portrait, source: Portrait, patch: np.ndarray, rng: Rng
) -> tuple[np.ndarray, Kind]:
    choice = rng.random()
    if choice < 0.45:
        foreign = matched_colour(laid_onto(target.face, source), pixels, patch)
        if rng.random() < 0.5:
            return seamless(pixels, foreign, patch, rng.uniform(6, 14) * target.face.unit), Kind.REPLACED
        return blended(pixels, shifted_colour(foreign, rng, 0.4), patch), Kind.REPLACED
    if choice < 0.75:
        return blended(pixels, _redrawn(pixels, target.face, rng), patch), Kind.SMOOTHED
    if choice < 0.87:
        return blended(pixels, shifted_colour(pixels, rng, rng.uniform(1.0, 2.0)), patch), Kind.COLOUR
    return blended(pixels, sharpened(pixels, rng.uniform(1.5, 3.0)), patch), Kind.SHARPER


def _redrawn(pixels: np.ndarray, face: Geometry, rng: Rng) -> np.ndarray:
    """The picture redrawn or without fine detail, and a little lighter or darker."""
    if rng.random() < 0.5:
        drawn = redrawn(pixels, rng)
    else:
        drawn = softened(reduced(pixels, rng.uniform(0.15, 0.35)), 0.5 * face.unit)
    return clipped(drawn.astype(np.float32) + rng.uniform(3, 10) * rng.choice([-1, 1]))
