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
from torch.nn import functional as F  # noqa: N812  the name everybody knows

from moderation.errors import BundleMismatch

# B patches, H and W cells of a score map, L = 5 landmarks

#: The files of mtcnn 1.0.0. They are pickles, so nothing else is ever unpickled.
WEIGHTS = {
    "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
    "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
    "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
}


class ProposalNet(nn.Module):
    """Slides a window of 12 pixels in steps of 2 over a picture of any size."""

    def __init__(self, arrays: Iterator[np.ndarray]) -> None:
        super().__init__()
        self.conv1, self.prelu1 = _conv(arrays), _prelu(arrays)
        self.conv2, self.prelu2 = _conv(arrays), _prelu(arrays)
        self.conv3, self.prelu3 = _conv(arrays), _prelu(arrays)
        self.offsets, self.scores = _conv(arrays), _conv(arrays)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 3, h, w) to scores (H, W) in [0, 1] and box offsets (H, W, 4) in windows."""
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 2, 2, ceil_mode=True)
        x = self.prelu2(self.conv2(x))
        x = self.prelu3(self.conv3(x))
        return self.scores(x).softmax(dim=1)[0, 1], self.offsets(x)[0].permute(1, 2, 0)


class RefineNet(nn.Module):
    """Judges patches of 24 pixels."""

    def __init__(self, arrays: Iterator[np.ndarray]) -> None:
        super().__init__()
        self.conv1, self.prelu1 = _conv(arrays), _prelu(arrays)
        self.conv2, self.prelu2 = _conv(arrays), _prelu(arrays)
        self.conv3, self.prelu3 = _conv(arrays), _prelu(arrays)
        self.hidden, self.prelu4 = _linear(arrays), _prelu(arrays)
        self.offsets, self.scores = _linear(arrays), _linear(arrays)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 24, 24) to scores (B,) in [0, 1] and box offsets (B, 4) in patches."""
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2)
        x = self.prelu3(self.conv3(x))
        x = self.prelu4(self.hidden(_flat(x)))
        return self.scores(x).softmax(dim=1)[:, 1], self.offsets(x)


class OutputNet(nn.Module):
    """Judges patches of 48 pixels, and finds the landmarks."""

    def __init__(self, arrays: Iterator[np.ndarray]) -> None:
        super().__init__()
        self.conv1, self.prelu1 = _conv(arrays), _prelu(arrays)
        self.conv2, self.prelu2 = _conv(arrays), _prelu(arrays)
        self.conv3, self.prelu3 = _conv(arrays), _prelu(arrays)
        self.conv4, self.prelu4 = _conv(arrays), _prelu(arrays)
        self.hidden, self.prelu5 = _linear(arrays), _prelu(arrays)
        self.offsets, self.landmarks, self.scores = _linear(arrays), _linear(arrays), _linear(arrays)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, 48, 48) to scores (B,), box offsets (B, 4) and landmarks (B, L, 2), both in patches."""
        x = F.max_pool2d(self.prelu1(self.conv1(x)), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self.prelu2(self.conv2(x)), 3, 2)
        x = F.max_pool2d(self.prelu3(self.conv3(x)), 2, 2, ceil_mode=True)
        x = self.prelu4(self.conv4(x))
        x = self.prelu5(self.hidden(_flat(x)))
        landmarks = self.landmarks(x).view(-1, 2, 5).transpose(1, 2)
        return self.scores(x).softmax(dim=1)[:, 1], self.offsets(x), landmarks


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


def _flat(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, W·H·C): the order in which the original nets were flattened."""
    return x.permute(0, 3, 2, 1).flatten(1)
