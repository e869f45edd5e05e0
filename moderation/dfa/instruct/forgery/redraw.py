"""Faces drawn again by small decoders that were learnt: what a generator's last layers leave in a picture, really made.

Face swappers, reenactors, editors and whole-frame generators differ in what they draw and end alike: learnt layers
that up-sample a few channels to pixels. An autoencoder ends so too, and what it draws again shows the same face at the
same place, so that nothing but its traces tells the copy from the picture (Rajan et al., "Aligned Datasets Improve
Detection of Latent Diffusion-Generated Images", ICLR 2025, arXiv 2410.11835; written from the paper).

The autoencoders were trained by `bonafide dfa train redrawers` on public-domain portraits alone, so the weights beside
this file fall under the project's own licence.

B pictures, H and W their sides, D = 2 ** depth.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from moderation.dfa.instruct.draws import Rng, picked
from moderation.dfa.instruct.forgery.latent import CELL, CODE, latent_redrawer
from moderation.dfa.instruct.forgery.photometry import clipped, grained, seamless, sharpened, softened

WEIGHTS = Path(__file__).with_name("redrawers.safetensors")

#: What is coarser than this many pixels is not drawn again.
BROAD = 5.0
#: To make up for what was lost: the most that detail is multiplied by, and the most grain, in grey levels.
MOST_SHARPENED, MOST_GRAIN = 4.0, 3.0

Rise = Literal["transposed", "nearest", "bilinear", "shuffled"]


@dataclass(frozen=True)
class RedrawerConfig:
    """One autoencoder: how far it goes down, how much it keeps there, and how it comes up again."""

    depth: int  # halvings: the code has a cell for every D × D pixels
    code: int  # channels of the code
    rise: Rise
    width: int = 16  # channels beside the pixels; twice as many at each halving


#: Every family of up-sampling that generators are built with, at the two depths that latent ones have.
REDRAWERS: Mapping[str, RedrawerConfig] = {
    "transposed": RedrawerConfig(depth=2, code=6, rise="transposed"),
    "nearest": RedrawerConfig(depth=3, code=24, rise="nearest"),
    "bilinear": RedrawerConfig(depth=2, code=4, rise="bilinear"),
    "shuffled": RedrawerConfig(depth=3, code=16, rise="shuffled"),
}


class Redrawer(nn.Module):
    """A plain convolutional autoencoder of pictures in [-1, 1] whose sides D divides."""

    def __init__(self, config: RedrawerConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        down: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), nn.SiLU()]
        for fine, coarse in pairwise(widths):
            down += [nn.Conv2d(fine, coarse, 4, stride=2, padding=1), nn.SiLU()]
        self.encoder = nn.Sequential(*down, nn.Conv2d(widths[-1], config.code, 3, padding=1))
        up: list[nn.Module] = [nn.Conv2d(config.code, widths[-1], 3, padding=1), nn.SiLU()]
        for coarse, fine in pairwise(reversed(widths)):
            up += [
                *_doubling(config.rise, coarse, fine),
                nn.SiLU(),
                nn.Conv2d(fine, fine, 3, padding=1),
                nn.SiLU(),
            ]
        self.decoder = nn.Sequential(*up, nn.Conv2d(widths[0], 3, 3, padding=1))

    def forward(self, pixels: Tensor, unrest: Tensor | float = 0.0) -> Tensor:
        """(B, 3, H, W) drawn again. `unrest` (B, code, H/D, W/D), in units of its spread, is added to the code."""
        code = self.encoder(pixels)
        return self.decoder(code + unrest * code.std())


def _doubling(rise: Rise, coarse: int, fine: int) -> list[nn.Module]:
    if rise == "transposed":
        return [nn.ConvTranspose2d(coarse, fine, 4, stride=2, padding=1)]
    if rise == "shuffled":
        return [nn.Conv2d(coarse, 4 * fine, 3, padding=1), nn.PixelShuffle(2)]
    return [nn.Upsample(scale_factor=2, mode=rise), nn.Conv2d(coarse, fine, 3, padding=1)]


#: How often the decoder of a latent diffusion model draws, where it was fetched.
LATENT_SHARE = 0.4


def redrawn(pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """(S, S, 3) uint8 drawn again by one of the decoders, at a size of its own, mostly from a slightly changed code."""
    latent = latent_redrawer()
    if latent is not None and rng.random() < LATENT_SHARE:
        # Noise of up to half the code's spread: the copy then differs as samples do.
        return _as_crisp(_drawn_by(latent, CELL, CODE, pixels, rng, often=0.7, most=0.5), pixels, rng)
    model = redrawers()[picked(list(REDRAWERS), rng)]
    whole = _drawn_by(model, 2**model.config.depth, model.config.code, pixels, rng, often=0.6, most=0.12)
    # The broad colours stay those of the picture: how these decoders see colour is no trace of anybody else's.
    side = pixels.shape[0]
    return _as_crisp(seamless(pixels, whole, np.ones((side, side), np.float32), BROAD), pixels, rng)


def _drawn_by(
    model: nn.Module, step: int, code: int, pixels: np.ndarray, rng: Rng, *, often: float, most: float
) -> np.ndarray:
    """Draw at a size of the decoder's own, as generators do, and bring the result to the picture's size.

    `step` pixels make a cell of the code, which has `code` channels. So `often` noise of up to `most` of the code's
    spread is added to it.
    """
    side = pixels.shape[0]
    drawn_side = round(side * float(rng.uniform(0.6, 1.2)) / step) * step
    unrest = float(rng.uniform(0, most)) if rng.random() < often else 0.0
    image = Image.fromarray(pixels).resize((drawn_side, drawn_side), Image.Resampling.LANCZOS)
    cells = drawn_side // step
    noise = torch.from_numpy(rng.standard_normal((1, code, cells, cells), dtype=np.float32))
    with torch.inference_mode():
        drawn = model(as_input(np.asarray(image)[None]), unrest * noise)
    result = Image.fromarray(clipped((drawn[0].permute(1, 2, 0).numpy() + 1) * 127.5))
    return np.asarray(result.resize((side, side), Image.Resampling.BICUBIC))


def _as_crisp(drawn: np.ndarray, pixels: np.ndarray, rng: Rng) -> np.ndarray:
    """Give detail back for what was lost, first by sharpening, then as grain: softness must not be what tells."""
    own = _detail(drawn) + 0.1
    wanted = _detail(pixels) * float(rng.uniform(0.75, 1.15))
    gain = min(max(wanted / own, 1.0) ** float(rng.uniform(0.5, 1)), MOST_SHARPENED)
    grain = min(max(wanted**2 - (own * gain) ** 2, 0.0) ** 0.5, MOST_GRAIN)
    return grained(sharpened(drawn, gain - 1), grain, rng)


def _detail(pixels: np.ndarray) -> float:
    """Standard deviation, in grey levels, of what is finer than a pixel or two."""
    return float((pixels.astype(np.float32) - softened(pixels, 1.0)).std())


def as_input(pictures: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) in [-1, 1]."""
    return torch.tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


@cache
def redrawers(file: Path = WEIGHTS) -> dict[str, Redrawer]:
    """The trained autoencoders by name, for looking only."""
    with safe_open(file, framework="pt") as weights:
        configs = json.loads(weights.metadata()["configs"])
        tensors = {name: weights.get_tensor(name).float() for name in weights.keys()}  # noqa: SIM118  not a mapping
    return {name: _loaded(name, RedrawerConfig(**config), tensors) for name, config in configs.items()}


def _loaded(name: str, config: RedrawerConfig, tensors: Mapping[str, Tensor]) -> Redrawer:
    model = Redrawer(config)
    prefix = f"{name}."
    model.load_state_dict(
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    )
    return model.eval().requires_grad_(requires_grad=False)


def save_redrawers(models: Mapping[str, Redrawer], file: Path) -> None:
    """At half precision, with their configurations in the file's metadata."""
    tensors = {
        f"{name}.{key}": value.half().contiguous()
        for name, model in models.items()
        for key, value in model.state_dict().items()
    }
    configs = json.dumps({name: asdict(model.config) for name, model in models.items()})
    save_file(tensors, file, metadata={"configs": configs})
