"""The lab's autoencoders learn to draw pictures again (`instruct/forgery/redraw.py`). Minutes each, on a CPU."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  what everybody calls it

from moderation.dfa.gpt.pixels import decode_picture
from moderation.dfa.instruct.forgery.redraw import REDRAWERS, Redrawer, RedrawerConfig, as_input

#: Side of what they learn from, pixels, and pictures of one step.
PATCH, BATCH = 128, 8
#: Peak learning rate of Adam; it falls to nothing.
RATE = 2e-3


def train_redrawers(
    files: Sequence[Path],
    *,
    steps: int,
    seed: int = 0,
    configs: Mapping[str, RedrawerConfig] = REDRAWERS,
    say: Callable[[str], None],
) -> dict[str, Redrawer]:
    """Train each on patches of the pictures, all on the same draws. Raises what `decode_picture` raises."""
    pictures = [decode_picture(file.read_bytes()).pixels for file in files]
    return {name: _trained(name, config, pictures, steps, seed, say) for name, config in configs.items()}


def _trained(
    name: str,
    config: RedrawerConfig,
    pictures: Sequence[np.ndarray],
    steps: int,
    seed: int,
    say: Callable[[str], None],
) -> Redrawer:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = Redrawer(config)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(1, steps + 1):
        wanted = as_input(
            np.stack([_patch(pictures[int(rng.integers(len(pictures)))], rng) for _ in range(BATCH)])
        )
        loss = unlikeness(model(wanted), wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == steps:
            say(f"{name}: step {step} of {steps}, loss {loss.item():.4f}")
    return model.eval()


def unlikeness(drawn: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of the pixels and of their steps to the right and down: colour, and sharpness."""
    total = F.l1_loss(drawn, wanted)
    for axis in (2, 3):
        total = total + F.l1_loss(drawn.diff(dim=axis), wanted.diff(dim=axis))
    return total


def _patch(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(PATCH, PATCH, 3): a square of half to all of the picture's shorter side, anywhere, perhaps mirrored."""
    height, width = picture.shape[:2]
    side = int(min(height, width) * rng.uniform(0.5, 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    square = Image.fromarray(picture[top : top + side, left : left + side])
    patch = np.asarray(square.resize((PATCH, PATCH), Image.Resampling.LANCZOS))
    return patch[:, ::-1] if rng.random() < 0.5 else patch
