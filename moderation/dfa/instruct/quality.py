"""Equal quality: both faces of a two get the same sharpness and the same light, so that quality tells nothing.

Forged pictures differ from bona fide ones in more than the forgery: generated portraits are clean and evenly lit,
swapped video frames are soft. A model that can learn "soft means forged" learns that, and is worse than chance when the
bona fide pictures are the soft ones. So the sharper face is blurred until both have the same fine detail, and one of
the two gets the light of the other. The remaining differences are local, or traces of forgery.
"""

import numpy as np
from PIL import Image, ImageFilter

from moderation.dfa.instruct.draws import Rng
from moderation.dfa.instruct.forgery.photometry import Encoding, clipped, encoded_as, softened

#: Standard deviation of the widest blur, pixels.
WIDEST = 3.0
#: The measured part of a crop, where faces lie, as shares of its side.
INNER = (0.2, 0.8)
#: Most that a channel's standard deviation is scaled. A larger factor would amplify noise.
MOST_STRETCHED = 1.5


def same_sharpness(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Blur the sharper of two crops (S, S, 3) until both have the same fine detail."""
    first, second = detail(one), detail(other)
    if first > second:
        return blurred_to(one, second), other
    return one, blurred_to(other, first)


def blurred_to(pixels: np.ndarray, wanted: float) -> np.ndarray:
    """The crop blurred until its `detail` is `wanted`. Unchanged when it has no more than that."""
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
    """Mean absolute second difference of grey levels within the face. A blur reduces it first."""
    return _detail(Image.fromarray(pixels).convert("L"))


def measures(pixels: np.ndarray) -> tuple[float, float, float, float]:
    """Numbers of a crop that tell nothing of a forgery: fine detail, mean, spread, bytes as a JPEG of quality 90."""
    inner, size = _inner(pixels), len(encoded_as(pixels, Encoding("JPEG", 90)))
    return detail(pixels), float(inner.mean()), float(inner.std()), float(size)


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
    """The crop with its channels' means and standard deviations moved towards those of `like` by the share `amount`."""
    values = pixels.astype(np.float32)
    mean, goal = _inner(pixels).mean(axis=0), _inner(like).mean(axis=0)
    spread, aim = _inner(pixels).std(axis=0) + 1, _inner(like).std(axis=0) + 1
    stretch = np.clip(aim / spread, 1 / MOST_STRETCHED, MOST_STRETCHED)
    moved = (values - mean) * stretch + goal
    return clipped(values * (1 - amount) + moved * amount)


def _inner(pixels: np.ndarray) -> np.ndarray:
    """(N, 3) float32: every second pixel of the measured part, in each direction."""
    least, most = (round(share * pixels.shape[0]) for share in INNER)
    return pixels[least:most:2, least:most:2].reshape(-1, 3).astype(np.float32)
