"""Changes that keep a picture's content: colour, sharpness, resolution, grain, place.

Pictures are (S, S, 3) uint8 RGB, in and out. The caller draws every amount or passes its random numbers.
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.nn import functional as F  # noqa: N812  what everybody calls it

from moderation.dfa.instruct.draws import Rng


def clipped(values: np.ndarray) -> np.ndarray:
    """Floating grey levels as uint8."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def shifted_colour(pixels: np.ndarray, rng: Rng, amount: float = 1.0) -> np.ndarray:
    """Change the light: gain and offset per channel, contrast around the mean, and saturation."""
    values = pixels.astype(np.float32)
    gain = 1 + rng.uniform(-0.12, 0.12, 3) * amount
    offset = rng.uniform(-14, 14, 3) * amount + rng.uniform(-14, 14) * amount
    mean = values.mean(axis=(0, 1))
    contrast = 1 + rng.uniform(-0.15, 0.15) * amount
    values = (values - mean) * contrast * gain + mean + offset
    grey = values.mean(axis=2, keepdims=True)
    return clipped(grey + (values - grey) * (1 + rng.uniform(-0.3, 0.3) * amount))


def matched_colour(pixels: np.ndarray, target: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Match the colours' mean and standard deviation under the mask to the target's, as swap tools do."""
    weight = mask[..., None] / max(float(mask.sum()), 1e-3)
    source, wanted = pixels.astype(np.float32), target.astype(np.float32)
    mean, goal = (source * weight).sum(axis=(0, 1)), (wanted * weight).sum(axis=(0, 1))
    spread = np.sqrt(((source - mean) ** 2 * weight).sum(axis=(0, 1))) + 1
    aim = np.sqrt(((wanted - goal) ** 2 * weight).sum(axis=(0, 1))) + 1
    return clipped((source - mean) * np.clip(aim / spread, 0.6, 1.6) + goal)


def softened(pixels: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur; `radius` is the standard deviation in pixels."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def sharpened(pixels: np.ndarray, amount: float) -> np.ndarray:
    """Unsharp mask with a radius of one pixel. An amount of 1 doubles the fine detail."""
    values = pixels.astype(np.float32)
    return clipped(values + amount * (values - softened(pixels, 1.0)))


RESAMPLINGS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.NEAREST,
)


def reduced(pixels: np.ndarray, share: float, up: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Reduce a picture to a share of its side and enlarge it again: the loss of a small video or generator."""
    side = pixels.shape[0]
    small = max(round(side * share), 8)
    image = Image.fromarray(pixels).resize((small, small), Image.Resampling.BILINEAR)
    return np.asarray(image.resize((side, side), up))


def grained(pixels: np.ndarray, sigma: float, rng: Rng) -> np.ndarray:
    """Sensor-like noise with this standard deviation in grey levels."""
    return clipped(pixels + rng.normal(0, sigma, pixels.shape).astype(np.float32))


@dataclass(frozen=True)
class Encoding:
    """How a picture is stored. PNG is lossless. `subsampling` is for JPEG: 0 keeps all colour, 2 a quarter."""

    kind: Literal["JPEG", "WEBP", "PNG"]
    quality: int
    subsampling: int = 2


def encoded_as(pixels: np.ndarray, encoding: Encoding) -> bytes:
    options = {} if encoding.kind == "PNG" else {"quality": encoding.quality}
    if encoding.kind == "JPEG":
        options["subsampling"] = encoding.subsampling
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, encoding.kind, **options)
    return buffer.getvalue()


def recompressed(pixels: np.ndarray, encoding: Encoding) -> np.ndarray:
    """Encode a picture and decode it again."""
    return decoded(encoded_as(pixels, encoding))


def decoded(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def transformed(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply an affine map (2, 3) from the result's pixels to the source's. Bicubic; outside is black."""
    side = pixels.shape[0]
    coefficients, resampling = tuple(matrix.reshape(-1).tolist()), Image.Resampling.BICUBIC
    image = Image.fromarray(pixels)
    return np.asarray(image.transform((side, side), Image.Transform.AFFINE, coefficients, resampling))


def displaced(pixels: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Take every pixel from its place plus `flow` (S, S, 2; x then y, pixels). Bicubic, reflected at the border."""
    side = pixels.shape[0]
    steps = torch.arange(side, dtype=torch.float32)
    at = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1) + torch.from_numpy(flow).float()
    image = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]  # (1, 3, S, S)
    grid = at[None] * (2 / (side - 1)) - 1
    moved = F.grid_sample(image, grid, mode="bicubic", padding_mode="reflection", align_corners=True)
    return clipped(moved[0].permute(1, 2, 0).numpy())


def blended(base: np.ndarray, foreign: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`foreign` where the mask is 1, `base` where it is 0."""
    weight = mask[..., None]
    return clipped(foreign.astype(np.float32) * weight + base.astype(np.float32) * (1 - weight))


def seamless(base: np.ndarray, foreign: np.ndarray, mask: np.ndarray, radius: float) -> np.ndarray:
    """Blend the detail of `foreign` over the low-frequency colours of `base`, like Poisson blending.

    `radius`, in pixels, separates detail from low frequencies.
    """
    detail = foreign.astype(np.float32) - softened(foreign, radius)
    return blended(base, clipped(detail + softened(base, radius)), mask)
