"""The three small nets of MTCNN (arXiv 1604.02878) in torch, with the weights inside the package `mtcnn`.

Only the weight files of that package are read; its code, which needs TensorFlow, is never imported. Searching a
picture with these nets is `faces.py`.
"""

import hashlib
import importlib.util
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from moderation.errors import BundleMismatch

# B patches, H and W cells of a score map, L = 5 landmarks

#: The files of mtcnn 1.0.0. They are pickles, so nothing else is ever unpickled.
WEIGHTS = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}


class ProposalNet(nn.Module):
    """Slides a window of 12 pixels in steps of 2 over a picture of any size with even sides.

    What the first layers and the pooling after them give, they give in one go here: see `_with_its_neighbours`. The
    plain layers take three times as long, for the same numbers.
    """

    def __init__(self, arrays: Iterator[np.ndarray]) -> None:
        super().__init__()
        self.conv1, self.prelu1 = _with_its_neighbours(_of_pixels(_conv(arrays)), _prelu(arrays))
        self.conv2, self.prelu2 = _conv(arrays), _prelu(arrays)
        self.conv3, self.prelu3 = _conv(arrays), _prelu(arrays)
        offsets, scores = _conv(arrays), _conv(arrays)
        self.offsets, self.scores = _per_cell(offsets), _per_cell(scores)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, h, w) to scores (H, W) in [0, 1] and box offsets (H, W, 4) in windows."""
        upper, lower = self.prelu1(self.conv1(x)).chunk(2, dim=1)
        left, right = torch.maximum(upper, lower).chunk(2, dim=1)
        x = self.prelu2(self.conv2(torch.maximum(left, right)))
        x = self.prelu3(self.conv3(x))
        cells = x[0].permute(1, 2, 0)  # (H, W, 32)
        return _likely(self.scores(cells)), self.offsets(cells)


def _with_its_neighbours(conv: nn.Conv2d, prelu: nn.PReLU) -> tuple[nn.Conv2d, nn.PReLU]:
    """A layer that gives each second cell and, as further maps, the three beside it that are pooled with it."""
    maps, inputs, height, width = conv.weight.shape
    kernel = torch.zeros(4, maps, inputs, height + 1, width + 1)
    for at, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        kernel[at, :, :, down : down + height, right : right + width] = conv.weight.data
    layer = nn.Conv2d(inputs, 4 * maps, (height + 1, width + 1), stride=2)
    assert conv.bias is not None
    layer.weight.data, bias = kernel.flatten(0, 1), conv.bias.data.repeat(4)
    layer.bias = nn.Parameter(bias)
    slopes = nn.PReLU(4 * maps)
    slopes.weight.data = prelu.weight.data.repeat(4)
    return layer, slopes


class RefineNet(nn.Module):
    """Judges patches of 24 pixels."""

    def __init__(self, arrays: Iterator[np.ndarray]) -> None:
        super().__init__()
        self.conv1, self.prelu1 = _of_pixels(_conv(arrays)), _prelu(arrays)
        self.conv2, self.prelu2 = _conv(arrays), _prelu(arrays)
        self.conv3, self.prelu3 = _conv(arrays), _prelu(arrays)
        self.hidden, self.prelu4 = _linear(arrays), _prelu(arrays)
        self.offsets, self.scores = _linear(arrays), _linear(arrays)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 24, 24) to scores (B,) in [0, 1] and box offsets (B, 4) in patches."""
        x = _pooled(self.prelu1(self.conv1(x)), 3)
        x = _pooled(self.prelu2(self.conv2(x)), 3)
        x = self.prelu3(self.conv3(x))
        x = self.prelu4(self.hidden(_flat(x)))
        return _likely(self.scores(x)), self.offsets(x)


class OutputNet(nn.Module):
    """Judges patches of 48 pixels, and finds the landmarks."""

    def __init__(self, arrays: Iterator[np.ndarray]) -> None:
        super().__init__()
        self.conv1, self.prelu1 = _of_pixels(_conv(arrays)), _prelu(arrays)
        self.conv2, self.prelu2 = _conv(arrays), _prelu(arrays)
        self.conv3, self.prelu3 = _conv(arrays), _prelu(arrays)
        self.conv4, self.prelu4 = _conv(arrays), _prelu(arrays)
        self.hidden, self.prelu5 = _linear(arrays), _prelu(arrays)
        self.offsets, self.landmarks, self.scores = _linear(arrays), _linear(arrays), _linear(arrays)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, 48, 48) to scores (B,), box offsets (B, 4) and landmarks (B, L, 2), both in patches."""
        x = _pooled(self.prelu1(self.conv1(x)), 3)
        x = _pooled(self.prelu2(self.conv2(x)), 3)
        x = _pooled(self.prelu3(self.conv3(x)), 2)
        x = self.prelu4(self.conv4(x))
        x = self.prelu5(self.hidden(_flat(x)))
        landmarks = self.landmarks(x).view(-1, 2, 5).transpose(1, 2)
        return _likely(self.scores(x)), self.offsets(x), landmarks


@dataclass(frozen=True)
class Nets:
    """The cascade. The nets keep nothing between calls: any number of threads may use them at once."""

    propose: ProposalNet
    refine: RefineNet
    judge: OutputNet


_loading = threading.Lock()


def nets() -> Nets:
    """The nets, loaded by the first caller. Raises `BundleMismatch` when the weights are not the ones we know."""
    with _loading:
        return _loaded_nets()


@cache
def _loaded_nets() -> Nets:
    found = Nets(ProposalNet(_arrays("pnet")), RefineNet(_arrays("rnet")), OutputNet(_arrays("onet")))
    for net in (found.propose, found.refine, found.judge):
        net.eval().requires_grad_(requires_grad=False)
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return found


def _arrays(name: str) -> Iterator[np.ndarray]:
    """The arrays of one net, in the order of its layers."""
    package = importlib.util.find_spec("mtcnn")
    if package is None or not package.submodule_search_locations:
        raise BundleMismatch("The package mtcnn, which holds the face finder's weights, is not installed.")
    path = Path(package.submodule_search_locations[0]) / "assets" / "weights" / f"{name}.lz4"
    if not path.is_file():
        raise BundleMismatch(f"The package mtcnn holds no {name}.lz4: install mtcnn 1.0.0.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != WEIGHTS[name]:
        raise BundleMismatch(f"The package mtcnn holds another {name}.lz4 than mtcnn 1.0.0 does.")
    return iter(joblib.load(io.BytesIO(content)))


def _conv(arrays: Iterator[np.ndarray]) -> nn.Conv2d:
    kernel, bias = torch.from_numpy(next(arrays)), torch.from_numpy(next(arrays))
    height, width, inputs, outputs = kernel.shape  # as TensorFlow keeps it
    layer = nn.Conv2d(inputs, outputs, (height, width))
    layer.weight.data, layer.bias.data = kernel.permute(3, 2, 0, 1).contiguous(), bias  # pyright: ignore[reportOptionalMemberAccess]
    return layer


def _of_pixels(conv: nn.Conv2d) -> nn.Conv2d:
    """The layer for pixels from 0 to 255, where the one that was trained takes them from -1 to 1."""
    assert conv.bias is not None
    conv.weight.data /= 128
    conv.bias.data = conv.bias.data - 127.5 * conv.weight.data.sum(dim=(1, 2, 3))
    return conv


def _likely(scores: Tensor) -> Tensor:
    """The second of the two scores' shares, (…, 2) to (…,)."""
    return (scores[..., 1] - scores[..., 0]).sigmoid()


def _per_cell(conv: nn.Conv2d) -> nn.Linear:
    """A convolution that sees one cell at a time."""
    layer = nn.Linear(conv.in_channels, conv.out_channels)
    assert conv.bias is not None
    layer.weight.data, layer.bias.data = conv.weight.data.flatten(1), conv.bias.data
    return layer


def _linear(arrays: Iterator[np.ndarray]) -> nn.Linear:
    kernel, bias = torch.from_numpy(next(arrays)), torch.from_numpy(next(arrays))
    layer = nn.Linear(kernel.shape[0], kernel.shape[1])
    layer.weight.data, layer.bias.data = kernel.T.contiguous(), bias
    return layer


def _prelu(arrays: Iterator[np.ndarray]) -> nn.PReLU:
    slopes = torch.from_numpy(next(arrays)).flatten()
    layer = nn.PReLU(len(slopes))
    layer.weight.data = slopes
    return layer


def _pooled(x: Tensor, window: int) -> Tensor:
    """The largest of `window` × `window` cells at every second place; windows at the end may be cut.

    What `max_pool2d` gives, to the bit. That one takes up to ten times as long on maps of so few channels, and took
    half of the time of the whole search.
    """
    return _pooled_along(_pooled_along(x, window, 2), window, 3)


def _pooled_along(x: Tensor, window: int, dim: int) -> Tensor:
    length = x.shape[dim]
    places = max(-(-(length - window) // 2), 0) + 1
    found = x.narrow(dim, 0, length)[(slice(None),) * dim + (slice(0, 2 * places - 1, 2),)].clone()
    for offset in range(1, window):
        others = x[(slice(None),) * dim + (slice(offset, offset + 2 * places - 1, 2),)]
        within = found.narrow(dim, 0, min(places, others.shape[dim]))
        torch.maximum(within, others.narrow(dim, 0, within.shape[dim]), out=within)
    return found


def _flat(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, W·H·C): the order in which the original nets were flattened."""
    return x.permute(0, 3, 2, 1).flatten(1)
