"""EFS-like forgeries: a whole frame drawn with up-sampling. The grain is special, but no single region (UNMAPPED).

Pictures of real generators are better; they come through the pool. These imitate generators that we have no pictures
of. Learnt decoders draw half of them (`redraw.py`). The others get the traces of transposed convolutions and small
decoders by arithmetic: regular spectra, lost grain, colours near a mean (Zhang et al., "Detecting and simulating
artifacts in GAN fake images", WIFS 2019; written from the paper).
"""

from collections.abc import Callable, Mapping
from functools import cache

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  what everybody calls it

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import Kind, Touch
from moderation.dfa.instruct.draws import Rng, weighted
from moderation.dfa.instruct.forgery.forged import Forgery
from moderation.dfa.instruct.forgery.masks import Portrait
from moderation.dfa.instruct.forgery.photometry import clipped, shifted_colour, softened
from moderation.dfa.instruct.forgery.redraw import redrawn


def synthesise(target: Portrait, rng: Rng) -> Forgery:
    """Redraw the whole frame, as a generator's last layers would."""
    name = weighted({name: share for name, (share, _) in RECIPES.items()}, rng)
    drawn = RECIPES[name][1](target.pixels, rng)
    pixels = shifted_colour(drawn, rng, rng.uniform(0, 0.3))
    change = np.abs(pixels.astype(np.float32) - target.pixels.astype(np.float32)).mean()
    fact = Touch(Region.UNMAPPED, Kind.PATTERN, min(float(change) / 16, 1.0))
    mask = np.ones(target.pixels.shape[:2], np.float32)
    return Forgery(pixels, mask, Technique.EFS, (fact,), name)


def _zeros_inserted(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """Reduce the frame, then enlarge it with a random transposed convolution that is almost a true low-pass filter."""
    factor = int(rng.choice([2, 2, 4]))
    image = _tensor(pixels)
    small = F.avg_pool2d(image, factor)
    kernel = _imperfect_lowpass(factor, rng)
    size = kernel.shape[-1]
    drawn = F.conv_transpose2d(small, kernel, stride=factor, groups=3, padding=(size - factor) // 2)
    detail = rng.uniform(0.3, 0.8)  # a good generator keeps much fine detail
    drawn = drawn[..., : image.shape[-2], : image.shape[-1]]
    return _pixels(drawn + detail * (image - _smooth_double(small, factor)))


def _imperfect_lowpass(factor: int, rng: Rng) -> torch.Tensor:
    """(3, 1, K, K): a triangle filter whose phases have slightly different sums, as in learnt filters."""
    ramp = np.convolve(np.ones(factor), np.ones(factor)) / factor
    ramp = np.append(ramp, 0.0) if len(ramp) % 2 != factor % 2 else ramp
    flat = np.outer(ramp, ramp)
    kernels = [flat * (1 + rng.uniform(0.02, 0.10) * rng.standard_normal(flat.shape)) for _ in range(3)]
    if rng.random() < 0.5:
        kernels = kernels[:1] * 3
    return torch.tensor(np.stack(kernels)[:, None], dtype=torch.float32)


def _smooth_double(small: torch.Tensor, factor: int) -> torch.Tensor:
    return F.interpolate(small, scale_factor=factor, mode="bilinear", align_corners=False)


def _tiles_repeated(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """Add a faint regular grain to the frame: a repeated small tile, as fixed noise inputs leave it."""
    tile = int(rng.choice([2, 4, 8, 16]))
    pattern = softened_tile(rng.standard_normal((tile, tile, 3)).astype(np.float32), tile)
    repeats = -(-pixels.shape[0] // tile)
    grain = np.tile(pattern, (repeats, repeats, 1))[: pixels.shape[0], : pixels.shape[1]]
    smooth = softened(pixels, rng.uniform(0.5, 1.2)).astype(np.float32)
    return clipped(smooth + grain * rng.uniform(1.0, 4.0))


def softened_tile(tile: np.ndarray, side: int) -> np.ndarray:
    """The tile with unit standard deviation. Larger tiles get coarser grain."""
    if side > 4:
        tile = (tile + np.roll(tile, 1, 0) + np.roll(tile, 1, 1)) / 3
    return (tile - tile.mean()) / (tile.std() + 1e-6)


def _patches_projected(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """Redraw each 8×8 block from its first few basis vectors, as a codebook or a narrow bottleneck would."""
    keep = int(rng.integers(12, 30))
    image = _tensor(pixels)
    blocks = F.unfold(image, 8, stride=8)  # (1, 192, N)
    basis = _strokes()[:, :keep]  # (64, keep)
    channels = blocks.view(3, 64, -1)
    drawn = torch.einsum("pk,qk,cqn->cpn", basis, basis, channels)
    folded = F.fold(drawn.reshape(1, 192, -1), image.shape[-2:], 8, stride=8)
    share = rng.uniform(0.5, 0.9)
    return softened(_pixels(folded * share + image * (1 - share)), float(rng.uniform(0.3, 0.7)))


#: How often each recipe is drawn, and the recipe.
RECIPES: Mapping[str, tuple[float, Callable[[np.ndarray, Rng], np.ndarray]]] = {
    "redrawn": (0.5, redrawn),
    "zeros_inserted": (0.2, _zeros_inserted),
    "tiles_repeated": (0.15, _tiles_repeated),
    "patches_projected": (0.15, _patches_projected),
}


@cache
def _strokes() -> torch.Tensor:
    """(64, 64): an orthonormal basis of 8×8 blocks, low frequencies first (the two-dimensional cosine basis)."""
    steps = np.arange(8)
    waves = np.cos(np.pi * (steps[:, None] + 0.5) * steps[None, :] / 8)
    waves /= np.linalg.norm(waves, axis=0)
    order = sorted((u + v, u, v) for u in range(8) for v in range(8))
    columns = [np.outer(waves[:, u], waves[:, v]).reshape(-1) for _, u, v in order]
    return torch.tensor(np.stack(columns, axis=1), dtype=torch.float32)


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None]


def _pixels(image: torch.Tensor) -> np.ndarray:
    return clipped(image[0].permute(1, 2, 0).numpy())
