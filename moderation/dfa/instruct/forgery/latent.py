"""Faces drawn again by the decoder of a latent diffusion model: the last step of most of today's generators, itself.

TAEF2 is a small public copy of FLUX.2's autoencoder (madebyollin/taesd on GitHub, MIT). A bona fide face that goes
through it keeps person, pose and light, and gets the skin and the fine detail of a generator. Noise on the code makes
the copy differ more, as sampling does (aligned reconstructions: Rajan et al., ICLR 2025, arXiv 2410.11835; DRCT, Chen
et al., ICML 2024).

The weights are not part of the project. `fetch_decoder` brings them; without them the lab uses its own decoders alone.

B pictures, H and W their sides, C = `CODE` channels.
"""

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import httpx
import torch
from torch import Tensor, nn

from moderation.dfa.gpt.base import cache_folder

#: Where the two files come from: one commit, so that they cannot change.
SOURCE = "https://raw.githubusercontent.com/madebyollin/taesd/5cccb12dc72074a4be35680c3b108548a7c69978/{name}"
#: The files, and the sha256 of each.
FILES: Mapping[str, str] = {
    "taef2_encoder.pth": "10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6",
    "taef2_decoder.pth": "0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5",
}
#: Channels of the code, and pixels along a side of one of its cells.
CODE, CELL = 32, 8
WIDTH = 64


class Block(nn.Module):
    """Three convolutions beside what they are added to. `overall` adds what the whole picture looks like."""

    def __init__(self, *, overall: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(), nn.ReLU(), _conv(), nn.ReLU(), _conv())
        self.pool = None
        if overall:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, WIDTH, H, W) to the same shape."""
        x = x if self.pool is None else x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class Bounded(nn.Module):
    """Codes held between −3 and 3, smoothly."""

    def forward(self, code: Tensor) -> Tensor:
        return torch.tanh(code / 3) * 3


def _conv(before: int = WIDTH, after: int = WIDTH, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, stride=stride, bias=bias)


def _encoder() -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3), Block()]
    for level in range(3):
        layers += [_conv(stride=2, bias=False), *(Block(overall=level == 2) for _ in range(3))]
    return nn.Sequential(*layers, _conv(after=CODE))


def _decoder() -> nn.Sequential:
    layers: list[nn.Module] = [Bounded(), _conv(before=CODE), nn.ReLU()]
    for level in range(3):
        layers += [
            *(Block(overall=level == 0) for _ in range(3)),
            nn.Upsample(scale_factor=2),
            _conv(bias=False),
        ]
    return nn.Sequential(*layers, Block(), _conv(after=3))


class LatentRedrawer(nn.Module):
    """The autoencoder, of pictures in [-1, 1] whose sides `CELL` divides. Its parts know pictures in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = _encoder(), _decoder()

    def forward(self, pixels: Tensor, unrest: Tensor | float = 0.0) -> Tensor:
        """(B, 3, H, W) drawn again. `unrest` (B, C, H/8, W/8), in units of the code's spread, is added to the code."""
        code = self.encoder((pixels + 1) / 2)
        return self.decoder(code + unrest * code.std()).clamp(0, 1) * 2 - 1


def decoder_folder() -> Path:
    """Where the fetched files lie, beside the bases."""
    return cache_folder().parent / "decoders"


@cache
def latent_redrawer() -> LatentRedrawer | None:
    """The fetched autoencoder, for looking only. None when it was not fetched."""
    return load_decoder(decoder_folder())


def load_decoder(folder: Path, files: Mapping[str, str] = FILES) -> LatentRedrawer | None:
    """The autoencoder in `folder`. None when a file is not there, or is another one."""
    if not all(_is(folder / name, digest) for name, digest in files.items()):
        return None
    model = LatentRedrawer()
    for name, part in zip(files, (model.encoder, model.decoder), strict=True):
        state: dict[str, Tensor] = torch.load(  # noqa: TID251  published so; of this digest, and weights alone
            folder / name, map_location="cpu", weights_only=True
        )
        part.load_state_dict({key: value.float() for key, value in state.items()})
    return model.eval().requires_grad_(requires_grad=False)


def _is(file: Path, digest: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest


def fetch_decoder(
    folder: Path | None = None, *, source: str = SOURCE, files: Mapping[str, str] = FILES
) -> bool:
    """Bring the files into the cache, 5 MB. False when they cannot be had: training goes on without.

    Each is put in place whole, so that two processes may fetch at once.
    """
    folder = folder or decoder_folder()
    folder.mkdir(parents=True, exist_ok=True)
    for name, digest in files.items():
        if _is(folder / name, digest):
            continue
        try:
            answer = httpx.get(source.format(name=name), timeout=60, follow_redirects=True).raise_for_status()
        except httpx.HTTPError:
            return False
        if hashlib.sha256(answer.content).hexdigest() != digest:
            return False
        part = folder / f".{name}.{os.getpid()}"
        part.write_bytes(answer.content)
        part.replace(folder / name)
    latent_redrawer.cache_clear()
    return True
