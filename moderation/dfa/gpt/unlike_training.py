"""Whether a face is shown in a way that no training set shows: two tones, all white, all black.

What a model says of such a picture means nothing, however sure it is. Pixels are measured here, before the model is
asked (`faces.unjudgeable`). What only the tower notices is measured in its features (`heads.Heads`), and the detector
says the same code.
"""

import numpy as np
from PIL import Image

from moderation.analysis import Face
from moderation.dfa.gpt.pixels import Picture

# Each limit lies beyond all of 1,560 bona fide faces of twelve sources; `benchmarks/faces.py` counts who is refused.
# What is said with it are the extremes among them.

#: Tones of luminance that a face must have. The darkest face of DFDC has 18, half of all have more than 150; 16 colours
#: have 7 at most, black and white has 2 and, as a JPEG, 14.
FEWEST_TONES = 17.0
#: Share of a face that may be white. Flash and a bright window make 0.14; twice as much light makes 0.2 to 0.75.
MOST_WHITE = 0.2
#: What counts as white, in luminance.
WHITE = 250
#: The luminance that a twentieth of the face must reach. The darkest reaches 25.
DARKEST = 20.0

#: Pixels along each side of a face that are looked at, about.
SAMPLED = 256


def unlike_training(picture: Picture, face: Face) -> bool:
    """Whether nothing that was trained on looks like this. Greyscale is ordinary; so are dim and bright pictures."""
    luminance = _luminance(picture, face)
    if not luminance.size:
        return False
    white = float((luminance >= WHITE).mean())
    return (
        tones(luminance) < FEWEST_TONES or white > MOST_WHITE or float(np.percentile(luminance, 95)) < DARKEST
    )


def tones(luminance: np.ndarray) -> float:
    """How many equally frequent tones would be as many-coloured, in [1, 256]: two to the power of the entropy."""
    shares = np.bincount(luminance.ravel(), minlength=256) / luminance.size
    shares = shares[shares > 0]
    return float(2 ** -(shares * np.log2(shares)).sum())


def _luminance(picture: Picture, face: Face) -> np.ndarray:
    """Of the box, as far as it lies inside the picture; of a large one, pixels at even distances. None is averaged."""
    height, width = picture.pixels.shape[:2]
    left, top = max(int(face.box.left), 0), max(int(face.box.top), 0)
    right, bottom = min(int(face.box.right) + 1, width), min(int(face.box.bottom) + 1, height)
    step = max(int(min(right - left, bottom - top) / SAMPLED), 1)
    part = np.ascontiguousarray(picture.pixels[top:bottom:step, left:right:step])
    if not part.size:
        return np.zeros((0, 0), dtype=np.uint8)
    return np.array(Image.fromarray(part).convert("L"))
