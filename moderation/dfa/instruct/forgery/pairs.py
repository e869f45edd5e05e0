"""A bona fide face and its forgery, alike in everything except the forgery.

Both get the same shift, light and compression, drawn once per pair. Half of the bona fide faces first get an edit
without effect (bent and bent back, blended with themselves, sharpened); otherwise "was processed" would tell them
apart.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from moderation.analysis import Technique
from moderation.dfa.instruct.draws import Rng
from moderation.dfa.instruct.forgery.edit import edit
from moderation.dfa.instruct.forgery.forged import Forgery
from moderation.dfa.instruct.forgery.masks import Portrait, swap_mask
from moderation.dfa.instruct.forgery.photometry import (
    RESAMPLINGS,
    Encoding,
    blended,
    clipped,
    decoded,
    displaced,
    encoded_as,
    grained,
    recompressed,
    reduced,
    sharpened,
    shifted_colour,
    softened,
    transformed,
)
from moderation.dfa.instruct.forgery.reenact import reenact
from moderation.dfa.instruct.forgery.swap import other_face, self_blend
from moderation.dfa.instruct.forgery.synthesis import synthesise


def forge(technique: Technique, target: Portrait, source: Portrait, rng: Rng) -> Forgery:
    """Forge one face by one technique. `source` is another person's face; only some recipes use it."""
    if technique is Technique.FS:
        return self_blend(target, rng) if rng.random() < 0.6 else other_face(target, source, rng)
    if technique is Technique.FE:
        return edit(target, source, rng)
    if technique is Technique.FR:
        return reenact(target, rng)
    return synthesise(target, rng)


def null_edit(target: Portrait, rng: Rng) -> np.ndarray:
    """A face processed as by cameras and apps, and still bona fide."""
    choice = rng.random()
    if choice < 0.3:
        flow = _gentle_flow(target, rng)
        return displaced(displaced(target.pixels, flow), -flow)
    if choice < 0.5:
        return blended(target.pixels, softened(target.pixels, 0.3), swap_mask(target.face, rng))
    if choice < 0.7:
        shift = np.array([[1, 0, rng.uniform(-0.5, 0.5)], [0, 1, rng.uniform(-0.5, 0.5)]])
        return transformed(target.pixels, shift)
    if choice < 0.8:
        return softened(target.pixels, rng.uniform(0.3, 0.9))
    if choice < 0.9:
        return sharpened(target.pixels, rng.uniform(0.2, 1.0))
    return grained(target.pixels, rng.uniform(1, 4), rng)


def _gentle_flow(target: Portrait, rng: Rng) -> np.ndarray:
    """A flow of up to a few pixels, so smooth that its reverse undoes it up to resampling."""
    size = target.face.size
    noise = rng.standard_normal((2, 4, 4)).astype(np.float32)
    planes = [Image.fromarray(plane).resize((size, size), Image.Resampling.BICUBIC) for plane in noise]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1) * rng.uniform(0.5, 2.0)


@dataclass(frozen=True)
class Chain:
    """Everything that happens to a picture between its making and us, drawn once for both pictures of a pair."""

    #: Affine map from the result's pixels to the pooled crop's: the place of the model's crop.
    window: tuple[tuple[float, float, float], tuple[float, float, float]]
    flip: bool
    seed: int  # of the grain and the light
    light: float  # amount, 0 none
    blur: float  # standard deviation in pixels, 0 none
    share: float  # the picture is reduced to this share of its side and enlarged again, 1 none
    up: int  # index into RESAMPLINGS
    grain: float  # standard deviation in grey levels, 0 none
    encodings: tuple[Encoding, ...]  # in order
    #: A change of the whole picture, one of `MISTREATMENTS`. None: no such change.
    mistreated: str | None = None


#: Repeats give the weights: most pictures without colour are simply grey.
MISTREATMENTS = ("grey", "grey", "grey", "grey", "burnt", "dark", "two_tone", "upside_down")


def mistreated(pixels: np.ndarray, how: str) -> np.ndarray:
    """Change a whole picture in a way that is no sign of forgery."""
    values = pixels.astype(np.float32)
    grey = np.repeat(values @ np.array([[0.299], [0.587], [0.114]], np.float32), 3, axis=2)
    return {
        "grey": lambda: clipped(grey),
        "two_tone": lambda: clipped((grey > np.median(grey)) * 255.0),
        "burnt": lambda: clipped(values * 1.9 + 25),
        "dark": lambda: clipped(values * 0.35),
        "upside_down": pixels[::-1].copy,
    }[how]()


def drawn_chain(rng: Rng, *, crop: int, size: int, unit: float = 1.0) -> Chain:
    """Draw a chain. All labels share this distribution.

    `crop` and `size` are the sides of the pooled crop and of the result. `unit` is the share of the crop that the
    model's window covers on average.
    """
    side = crop * unit * rng.uniform(0.8, 1.06)
    scale = side / size
    turn = np.deg2rad(rng.normal(0, 6))
    if rng.random() < 0.06:  # a picture on its side, or a tilted head, is no forgery
        turn = np.deg2rad(rng.uniform(-180, 180))
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    centre = crop / 2 + rng.uniform(-0.03, 0.03, 2) * crop
    middle = size / 2
    across = (cos, -sin, centre[0] - cos * middle + sin * middle)
    down = (sin, cos, centre[1] - sin * middle - cos * middle)
    # A third of the pictures arrive almost unchanged: the other chains destroy the finest traces.
    gentle = rng.random() < 0.33
    rough = 0.0 if gentle else 1.0
    encodings = 1 if gentle else int(rng.choice([1, 1, 2]))
    subsampling = int(rng.choice([0, 2, 2]))
    return Chain(
        window=(across, down),
        flip=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**31)),
        light=float(rng.uniform(0, 0.8)) if rng.random() < 0.5 else 0.0,
        blur=float(rng.uniform(0.3, 1.2)) if rng.random() < 0.3 * rough else 0.0,
        share=float(rng.uniform(0.45, 0.95)) if rng.random() < 0.45 * rough else 1.0,
        up=int(rng.integers(len(RESAMPLINGS) - 1)),
        # Log-uniform: most noise is faint, but the model must also see the noise of night pictures.
        grain=float(np.exp(rng.uniform(0, np.log(16)))) if rng.random() < 0.3 * rough else 0.0,
        encodings=tuple(_drawn_encoding(rng, subsampling, gentle=gentle) for _ in range(encodings)),
        mistreated=str(rng.choice(MISTREATMENTS)) if rng.random() < 0.12 else None,
    )


def _drawn_encoding(rng: Rng, subsampling: int, *, gentle: bool) -> Encoding:
    """Mostly JPEG. WebP smooths more at the same quality and has fixed subsampling. PNG is lossless."""
    choice = rng.random()
    if choice < 0.12:
        return Encoding("PNG", 100)
    if choice < 0.3:
        return Encoding("WEBP", int(rng.integers(80 if gentle else 35, 98)), subsampling)
    return Encoding("JPEG", int(rng.integers(80 if gentle else 40, 98)), subsampling)


def through(chain: Chain, pixels: np.ndarray, size: int) -> np.ndarray:
    """A picture through a chain, without its last encoding: (S, S, 3) -> (size, size, 3)."""
    rng = np.random.default_rng(chain.seed)
    drawn = np.asarray(_windowed(chain, pixels, size, Image.Resampling.BICUBIC))
    if chain.mistreated:
        drawn = mistreated(drawn, chain.mistreated)
    if chain.light:
        drawn = shifted_colour(drawn, rng, chain.light)
    if chain.blur:
        drawn = softened(drawn, chain.blur)
    if chain.share < 1:
        drawn = reduced(drawn, chain.share, RESAMPLINGS[chain.up])
    if chain.grain:
        drawn = grained(drawn, chain.grain, rng)
    for encoding in chain.encodings[:-1]:
        drawn = recompressed(drawn, encoding)
    return drawn


def _windowed(chain: Chain, values: np.ndarray, size: int, resampling: Image.Resampling) -> Image.Image:
    """The part of a picture or a mask that the model's crop shows, perhaps mirrored."""
    coefficients = tuple(value for row in chain.window for value in row)
    image = Image.fromarray(values).transform((size, size), Image.Transform.AFFINE, coefficients, resampling)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if chain.flip else image


def encoded(chain: Chain, pixels: np.ndarray, size: int) -> bytes:
    """A picture through the whole chain, as the file that a platform would hold."""
    return encoded_as(through(chain, pixels, size), chain.encodings[-1])


def delivered(chain: Chain, pixels: np.ndarray, size: int) -> np.ndarray:
    """A picture as it reaches the model, (size, size, 3) uint8."""
    return decoded(encoded(chain, pixels, size))


def mask_through(chain: Chain, mask: np.ndarray, size: int) -> np.ndarray:
    """The mask of a delivered picture, (size, size) float32 in [0, 1]."""
    result = _windowed(chain, (mask * 255).astype(np.uint8), size, Image.Resampling.BILINEAR)
    if chain.mistreated == "upside_down":
        result = result.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.asarray(result, dtype=np.float32) / 255
