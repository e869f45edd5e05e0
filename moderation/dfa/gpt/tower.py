"""The mini bundle's vision tower: a light convolutional stem, and a branch that sees only fine residue.

CLIP-L has 300 M parameters and needs a GPU. This tower takes its place in the LLaVA layout, so that the same code
loads, trains and serves small bundles and the 7B one. Importing this module registers the tower with transformers; no
code is ever loaded from a bundle.

Frozen photo features hold little evidence of forgery. The evidence lies in the fine residue, which resizing and pooling
remove first. So a second branch reads the full-resolution pixels through fixed high-pass filters (Fridrich and
Kodovský, "Rich models for steganalysis", 2012; as three kernels in Zhou et al., CVPR 2018).

B images, C channels, G grid side, P = G·G patches, D tower width.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from torch.nn.utils.fusion import fuse_conv_bn_eval
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

#: EfficientNet-Lite0 (Liu et al., 2020): repeats, kernel, stride, expansion, channels out.
LITE0_STAGES: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)

#: The three residual kernels of Zhou et al., each with its divisor. They sum to zero, so flat colour vanishes.
RESIDUAL_KERNELS: tuple[tuple[float, tuple[tuple[int, ...], ...]], ...] = (
    (4, ((0, 0, 0, 0, 0), (0, -1, 2, -1, 0), (0, 2, -4, 2, 0), (0, -1, 2, -1, 0), (0, 0, 0, 0, 0))),
    (12, ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1))),
    (2, ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 1, -2, 1, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0))),
)


class TowerConfig(PretrainedConfig):
    """A tower's sizes. `image_size` must be a multiple of 32 and of `patch_size`."""

    model_type = "bonafide_tower"

    def __init__(
        self,
        *,
        hidden_size: int = 256,
        image_size: int = 224,
        patch_size: int = 16,
        stem_channels: int = 32,
        stages: Sequence[Sequence[int]] = LITE0_STAGES,
        residual_channels: Sequence[int] = (24, 48, 96, 128),
        residual_gain: float = 16.0,
        **rest: Any,
    ) -> None:
        """Set the sizes.

        Args:
            hidden_size: width of a visual token.
            image_size: side of the square picture, pixels.
            patch_size: pixels per token: 16 gives 14×14 tokens at 224, 32 gives 7×7.
            stem_channels: channels of the first convolution.
            stages: rows as in `LITE0_STAGES`. The strides, with the first convolution's 2, multiply to 32.
            residual_channels: channels of the four stride-2 convolutions after the fixed filters.
            residual_gain: factor on the residue before it is clipped to ±1. Pixels arrive as (x − 127)/128, so 16 clips
                at 8 grey levels.
            rest: for transformers.
        """
        self.hidden_size = hidden_size
        self.image_size = image_size
        self.patch_size = patch_size
        self.stem_channels = stem_channels
        self.stages = [list(stage) for stage in stages]
        self.residual_channels = list(residual_channels)
        self.residual_gain = residual_gain
        super().__init__(**rest)


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: at stride 2 on even sizes, it pads more below and right."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        pads: list[int] = []
        for size, kernel, stride in zip(
            reversed(input.shape[-2:]), reversed(self.kernel_size), reversed(self.stride), strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        left, right, top, below = pads
        if (left, top) == (right, below):  # the convolution pads without a copy
            return F.conv2d(input, self.weight, self.bias, self.stride, (top, left), 1, self.groups)
        return super().forward(F.pad(input, pads))


def _norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm with EfficientNet-Lite's training constants."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """An inverted residual: widen, filter each channel, narrow. Names follow the published state dict."""

    def __init__(self, channels: int, out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expands = expansion != 1
        if self.expands:
            self.expand_conv = SameConv(channels, wide, 1, bias=False)
            self.bn0 = _norm(wide)
        self.depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self.bn1 = _norm(wide)
        self.project_conv = SameConv(wide, out, 1, bias=False)
        self.bn2 = _norm(out)
        self.skips = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expands else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.skips else y


class Stem(nn.Module):
    """EfficientNet-Lite without its head, for the picture's content."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.conv_stem = SameConv(3, config.stem_channels, 3, 2, bias=False)
        self.bn0 = _norm(config.stem_channels)
        self.blocks = nn.ModuleList()
        #: Index of the last block at stride 16, and its channels: the finer of the two fused levels.
        self.middle = 0
        self.middle_channels = channels = config.stem_channels
        total = 2
        for repeats, kernel, stride, expansion, out in config.stages:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                self.blocks.append(Block(channels, out, kernel=kernel, stride=step, expansion=expansion))
                channels, total = out, total * step
                if total == 16:
                    self.middle, self.middle_channels = len(self.blocks) - 1, channels
        self.deep_channels = channels

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu6(self.bn0(self.conv_stem(pixels)))
        middle = x
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == self.middle:
                middle = x
        return middle, x  # (B, C, 14, 14), (B, C, 7, 7) at 224 pixels


class Residue(nn.Module):
    """The residue without smooth content: fixed filters, and a small stack of convolutions on them."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.gain = config.residual_gain
        kernels = torch.stack([torch.tensor(rows) / divisor for divisor, rows in RESIDUAL_KERNELS])
        # Persistent, so that a bundle holds the filters it was trained with.
        self.register_buffer("filters", kernels.repeat(3, 1, 1)[:, None].contiguous())  # (9, 1, 5, 5)
        layers: list[nn.Module] = []
        channels = 3 * len(RESIDUAL_KERNELS)
        for out in config.residual_channels:
            layers += [SameConv(channels, out, 3, 2, bias=False), _norm(out), nn.ReLU6()]
            channels = out
        self.stack = nn.Sequential(*layers)
        self.channels = channels

    def forward(self, pixels: Tensor) -> Tensor:
        filters = cast("Tensor", self.filters).to(pixels.dtype)
        # Reflected at the border: a zero border would be the strongest residue.
        residue = F.conv2d(F.pad(pixels, (2, 2, 2, 2), mode="reflect"), filters, groups=3)  # (B, 9, H, W)
        return self.stack((residue * self.gain).clamp(-1, 1))


class Tower(PreTrainedModel):
    """From pictures to P visual tokens, as LLaVA's vision tower."""

    config_class = TowerConfig
    config: TowerConfig  # pyright: ignore[reportIncompatibleVariableOverride]  transformers declares the base class
    main_input_name = "pixel_values"
    base_model_prefix = "tower"
    _supports_sdpa = True  # it has no attention, but LLaVA asks every part
    _no_split_modules = None

    def __init__(self, config: TowerConfig) -> None:
        super().__init__(config)
        self.stem = Stem(config)
        self.residue = Residue(config)
        fused = self.stem.middle_channels + self.stem.deep_channels + self.residue.channels
        self.grid = config.image_size // config.patch_size
        self.fuse_conv = SameConv(fused, config.hidden_size, 1, bias=False)
        self.fuse_norm = _norm(config.hidden_size)
        # Convolutions know positions only near the borders, but a rationale must name them.
        self.places = nn.Parameter(torch.zeros(1, self.grid**2, config.hidden_size))
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """(B, 3, H, W) as (x − mean)/std with the bundle's constants -> tokens (B, P, D)."""
        middle, deep = self.stem(pixel_values)
        levels = [_to_grid(level, self.grid) for level in (middle, deep, self.residue(pixel_values))]
        fused = self.fuse_norm(self.fuse_conv(torch.cat(levels, dim=1)))  # (B, D, G, G)
        tokens = fused.flatten(2).transpose(1, 2) + self.places  # (B, P, D)
        return BaseModelOutputWithPooling(
            last_hidden_state=cast("torch.FloatTensor", tokens), hidden_states=cast("Any", (tokens,))
        )


def _to_grid(level: Tensor, grid: int) -> Tensor:
    """Average a level finer than the token grid, repeat a coarser one. One side must be a multiple of the other."""
    side = level.shape[-1]
    if side > grid:
        return F.avg_pool2d(level, side // grid)
    if side < grid:
        return level.repeat_interleave(grid // side, dim=2).repeat_interleave(grid // side, dim=3)
    return level


def fold_batch_norms(tower: Tower) -> Tower:
    """Fold every batch norm into the convolution before it, in place. Only for inference; equal up to rounding."""
    tower.eval()
    for parent in list(tower.modules()):
        previous: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and previous is not None:
                setattr(parent, previous[0], fuse_conv_bn_eval(previous[1], child))
                setattr(parent, name, nn.Identity())
            previous = (name, child) if isinstance(child, nn.Conv2d) else None
    return tower


AutoConfig.register(TowerConfig.model_type, TowerConfig, exist_ok=True)
AutoModel.register(TowerConfig, Tower, exist_ok=True)
