"""Is a face unlike every training set: two tones, all white, all black?

A model's answer about such a picture means nothing, even when it is sure. This module measures pixels, before the model
is asked (`faces.unjudgeable`). `heads.Heads` measures the tower's features, and the detector then gives the same code.
"""

import numpy as np
from PIL import Image

from moderation.analysis import Face
from moderation.dfa.gpt.pixels import Picture

# No face of 1,560 bona fide ones from twelve sources passes any limit; `benchmarks/faces.py` counts the refused ones.
# Each comment gives the extremes among them.

#: Least tones of luminance. The darkest face of DFDC has 18, half of all faces have more than 150. 16 colours have at
#: most 7, black and white has 2 and, as a JPEG, 14.
FEWEST_TONES = 17.0
#: Most white, as a share of a face. Flash and a bright window make 0.14; twice as much light makes 0.2 to 0.75.
MOST_WHITE = 0.2
#: White begins at this luminance.
WHITE = 250
#: A twentieth of the face must reach this luminance. In the darkest face it reaches 25.
DARKEST = 20.0

#: About how many pixels are read along each side of a face.
SAMPLED = 256


def unlike_training(picture: Picture, face: Face) -> bool:
    """True when no training picture looks like this face. Greyscale, dim and bright pictures are ordinary."""
    luminance = _luminance(picture, face)
    if not luminance.size:
        return False
    white = float((luminance >= WHITE).mean())
    return (
        tones(luminance) < FEWEST_TONES or white > MOST_WHITE or float(np.percentile(luminance, 95)) < DARKEST
    )


def tones(luminance: np.ndarray) -> float:
    """The effective number of tones, in [1, 256]: two to the power of the entropy."""
    shares = np.bincount(luminance.ravel(), minlength=256) / luminance.size
    shares = shares[shares > 0]
    return float(2 ** -(shares * np.log2(shares)).sum())


def _luminance(picture: Picture, face: Face) -> np.ndarray:
    """Luminance of the box's part inside the picture. A large box is sampled at even distances, without averaging."""
    height, width = picture.pixels.shape[:2]
    left, top = max(int(face.box.left), 0), max(int(face.box.top), 0)
    right, bottom = min(int(face.box.right) + 1, width), min(int(face.box.bottom) + 1, height)
    step = max(int(min(right - left, bottom - top) / SAMPLED), 1)
    part = np.ascontiguousarray(picture.pixels[top:bottom:step, left:right:step])
    if not part.size:
        return np.zeros((0, 0), dtype=np.uint8)
    return np.array(Image.fromarray(part).convert("L"))
