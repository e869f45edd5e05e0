"""A LLaVA projector that pools: squares of patches become one visual token each, so that the language model reads less.

B pictures, P patches in a square grid, F features.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from moderation.errors import BundleMismatch


class PoolingProjector(LlavaMultiModalProjector):
    """LLaVA's projector on the mean of every `side`·`side` patches. The class token, if there is one, stays alone."""

    def __init__(self, config: Any, side: int) -> None:
        super().__init__(config)
        self.side = side
        self.single = int(config.vision_feature_select_strategy == "full")

    def forward(self, image_features: Tensor) -> Tensor:
        first, patches = image_features[:, : self.single], image_features[:, self.single :]
        return super().forward(torch.cat([first, mean_of_squares(patches, self.side)], dim=1))


def mean_of_squares(patches: Tensor, side: int) -> Tensor:
    """(B, P, F) -> (B, P/side², F), rows from the top."""
    across = round(patches.shape[1] ** 0.5)
    grid = patches.transpose(1, 2).unflatten(2, (across, across))
    return F.avg_pool2d(grid, side).flatten(2).transpose(1, 2)


def pool_patches(model: LlavaForConditionalGeneration, side: int) -> None:
    """Let the projector pool squares of `side` by `side` patches. Raise BundleMismatch when they do not fit."""
    config: Any = model.config
    single = int(config.vision_feature_select_strategy == "full")
    across = math.isqrt(config.image_seq_length - single)
    if across**2 != config.image_seq_length - single or across % side:
        raise BundleMismatch(
            f"image.pool is {side}, and the tower has {across} by {across} patches: name a divisor of {across}."
        )
    plain = model.model.multi_modal_projector
    pooling = PoolingProjector(config, side).to(plain.linear_1.weight)
    pooling.load_state_dict(plain.state_dict())
    model.model.multi_modal_projector = cast("Any", pooling)
    config.image_seq_length = (across // side) ** 2 + single
