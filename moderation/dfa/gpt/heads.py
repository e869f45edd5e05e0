"""Heads on a tower's features, beside the language model: verdict, technique, regions, and foreign-looking pixels.

They train the tower, give the reviewer's evidence map, and show how far the language model's verdict agrees with what
the tower sees. A bundle carries them in `heads.safetensors`.

B pictures, P patches, L layers, D tower width, Q queries, R regions.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it

from moderation.analysis import Region, Technique

#: The regions that the region head can name, in its order.
REGIONS: tuple[Region, ...] = (
    Region.FOREHEAD,
    Region.EYES,
    Region.NOSE,
    Region.CHEEKS,
    Region.MOUTH,
    Region.JAWLINE,
    Region.FACE_BOUNDARY,
    Region.SKIN,
    Region.UNMAPPED,
)
#: Width of the region head's features.
NARROW = 192
#: Principal axes of the training faces' features. Strangeness is measured along them.
AXES = 48
#: A face's view: how many numbers it has, the seed of their directions, and the largest absolute value.
VIEW, VIEW_SEED, FURTHEST = 8, 18, 8.0


@dataclass(frozen=True)
class Seen:
    """The heads' outputs for B pictures: logits, and the features."""

    verdict: Tensor  # (B,)
    technique: Tensor  # (B, 4)
    regions: Tensor  # (B, R)
    grid: Tensor  # (B, P)
    features: Tensor  # (B, L·D), of unit length
    #: (B,): distance from the training faces, in their standard deviations. None when it was not measured.
    strangeness: Tensor | None = None


class Heads(nn.Module):
    """Linear heads on the class token of several layers, and on the patches."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        wide = layers * width
        #: Weights for features that are standardised by `middle` and `spread`.
        self.verdict = nn.Parameter(torch.zeros(wide))
        self.verdict_bias = nn.Parameter(torch.zeros(()))
        self.technique = nn.Linear(wide, len(Technique))
        self.grid = nn.Linear(wide, 1)
        self.narrow = nn.Linear(wide, NARROW)
        self.queries = nn.Parameter(torch.randn(len(REGIONS), NARROW) * NARROW**-0.5)
        self.regions = nn.Parameter(torch.randn(len(REGIONS), NARROW) * NARROW**-0.5)
        self.region_bias = nn.Parameter(torch.full((len(REGIONS),), -2.0))
        #: The training faces' features: mean, standard deviations, principal axes and deviations along them.
        #: `know` sets them.
        self.register_buffer("middle", torch.zeros(wide))
        self.register_buffer("spread", torch.full((wide,), wide**-0.5))
        self.register_buffer("axes", torch.zeros(AXES, wide))
        self.register_buffer("spreads", torch.zeros(AXES + 1))
        nn.init.zeros_(self.grid.weight)
        nn.init.zeros_(self.technique.weight)

    def forward(self, states: Tensor) -> Seen:
        """Read (B, 1+P, L, D) hidden states of the tower's chosen layers, the class token first."""
        even = F.layer_norm(states, states.shape[-1:]).flatten(2)  # (B, 1+P, L·D)
        features = F.normalize(even[:, 0], dim=-1)
        patches = even[:, 1:]
        narrow = self.narrow(patches)  # (B, P, N)
        shares = (self.queries @ narrow.transpose(1, 2)).softmax(dim=-1)  # (B, R, P)
        found = shares @ torch.tanh(narrow)  # (B, R, N)
        return Seen(
            verdict=((features - self.middle) / self.spread) @ self.verdict + self.verdict_bias,
            technique=self.technique(features * features.shape[-1] ** 0.5),
            regions=(found * self.regions).sum(dim=-1) + self.region_bias,
            grid=self.grid(patches)[..., 0],
            features=features,
            strangeness=self._strangeness(features),
        )

    def know(self, features: Tensor) -> None:
        """Store mean, spread and axes of the training faces' features (N, L·D), N > `AXES`. Verdicts do not change."""
        middle, spread = features.mean(dim=0), features.std(dim=0) + 1e-6
        with torch.no_grad():
            direction = self.verdict / self.spread
            self.verdict_bias += direction @ (middle - self.middle)
            self.verdict.copy_(direction * spread)
        _, values, axes = torch.linalg.svd(features - middle, full_matrices=False)
        spreads = values / len(features) ** 0.5
        self.middle, self.spread, self.axes = middle, spread, axes[:AXES]
        self.spreads = torch.cat([spreads[:AXES], spreads[AXES:].square().sum().sqrt()[None]])

    @torch.no_grad()
    def views(self, features: Tensor) -> Tensor:
        """(B, VIEW): features along fixed random directions, in standard deviations of the training faces.

        They are rounded to halves and clamped to ±`FURTHEST`.
        """
        draw = torch.Generator().manual_seed(VIEW_SEED)
        directions = torch.randn(len(self.middle), VIEW, generator=draw).to(features)
        along = (features - self.middle) @ directions / self.spread.norm()
        return (2 * along).round().div(2).clamp(-FURTHEST, FURTHEST)

    def _strangeness(self, features: Tensor) -> Tensor | None:
        """Root mean square of a face's distances along each axis and off all axes, in spreads (Mahalanobis)."""
        axes, spreads, middle = (cast("Tensor", buffer) for buffer in (self.axes, self.spreads, self.middle))
        if not bool(spreads.any()):
            return None
        away = features - middle
        along = away @ axes.T  # (B, A)
        off = (away.square().sum(dim=-1) - along.square().sum(dim=-1)).clamp(min=0).sqrt()
        apart = torch.cat([along, off[:, None]], dim=-1) / spreads
        return apart.square().mean(dim=-1).sqrt()
