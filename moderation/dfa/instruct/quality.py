"""Quality must say nothing: the two faces of a two are brought to one sharpness and one light before they are shown.

A forger's pictures differ from bona fide ones in more than the forgery: generated portraits are clean and evenly lit,
swapped video frames soft. A model that may learn "soft means forged" learns that, and is below chance where the bona
fide pictures are the soft ones. So the sharper of the two is blurred until both hold the same fine detail, and one of
the two takes on the light of the other. What tells them apart afterwards is local, or is a trace.
"""

import numpy as np
from PIL import Image, ImageFilter

from moderation.dfa.instruct.forgery.facts import Rng
from moderation.dfa.instruct.forgery.photometry import clipped, softened

#: The widest blur that is tried, standard deviation in pixels.
WIDEST = 3.0
#: Shares of the side between which faces lie in a crop: what is measured.
INNER = (0.2, 0.8)
#: One channel's spread is changed by no more than this factor: beyond, noise would be amplified.
MOST_STRETCHED = 1.5


def same_sharpness(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blur the sharper of two crops (S, S, 3) until both have the same fine detail."""
    first, second = detail(one), detail(other)
    if first > second:
        return blurred_to(one, second), other
    return one, blurred_to(other, first)


def blurred_to(pixels: np.ndarray, wanted: float) -> np.ndarray:
    """The crop with so much blur that `detail` is `wanted`, or as it is when it has no more than that."""
    grey = Image.fromarray(pixels).convert("L")
    least, most = 0.0, WIDEST
    if _detail(grey) <= wanted * 1.02:
        return pixels
    for _ in range(6):
        middle = (least + most) / 2
        if _detail(grey.filter(ImageFilter.GaussianBlur(middle))) > wanted:
            least = middle
        else:
            most = middle
    return softened(pixels, (least + most) / 2)


def detail(pixels: np.ndarray) -> float:
    """Mean absolute difference of neighbouring grey levels within the face: what a blur takes away first."""
    return _detail(Image.fromarray(pixels).convert("L"))


def _detail(grey: Image.Image) -> float:
    side = grey.size[0]
    least, most = (round(share * side) for share in INNER)
    values = np.asarray(grey, dtype=np.float32)[least:most, least:most]
    across, down = np.abs(np.diff(values, n=2, axis=1)), np.abs(np.diff(values, n=2, axis=0))
    return float(across.mean() + down.mean())


def same_light(one: np.ndarray, other: np.ndarray, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """Give one of two crops, drawn at random, the other's mean and spread of each channel, or half of the way."""
    amount = float(rng.choice([0.5, 1.0, 1.0]))
    if rng.random() < 0.5:
        return relit(one, other, amount), other
    return one, relit(other, one, amount)


def relit(pixels: np.ndarray, like: np.ndarray, amount: float) -> np.ndarray:
    """The crop with its channels' means and spreads moved by `amount` of the way to those of `like`."""
    values = pixels.astype(np.float32)
    mean, goal = _inner(pixels).mean(axis=0), _inner(like).mean(axis=0)
    spread, aim = _inner(pixels).std(axis=0) + 1, _inner(like).std(axis=0) + 1
    stretch = np.clip(aim / spread, 1 / MOST_STRETCHED, MOST_STRETCHED)
    moved = (values - mean) * stretch + goal
    return clipped(values * (1 - amount) + moved * amount)


def _inner(pixels: np.ndarray) -> np.ndarray:
    """(N, 3) float32: the pixels within which faces lie."""
    least, most = (round(share * pixels.shape[0]) for share in INNER)
    return pixels[least:most:2, least:most:2].reshape(-1, 3).astype(np.float32)
