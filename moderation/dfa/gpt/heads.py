"""What reads a tower's features beside the language model: verdict, technique, regions, and where pixels look foreign.

They teach the tower to see, give the evidence map that a reviewer looks at, and say how far the language model's
verdict keeps to what the tower sees. A bundle carries them in `heads.safetensors`.

B pictures, P patches, L layers, D tower width, Q queries, R regions.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it

from moderation.analysis import Region, Technique

#: The regions that a head can name, in its order.
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
#: Width in which regions are looked for.
NARROW = 192
#: Directions in which faces that were learnt on vary and distances are measured.
AXES = 48
#: Numbers of a face's view, what they are drawn with, and the largest of them.
VIEW, VIEW_SEED, FURTHEST = 8, 18, 8.0


@dataclass(frozen=True)
class Seen:
    """What the heads say of B pictures, all logits but the features."""

    verdict: Tensor  # (B,)
    technique: Tensor  # (B, 4)
    regions: Tensor  # (B, R)
    grid: Tensor  # (B, P)
    features: Tensor  # (B, L·D), on the sphere
    #: (B,): distance from what was learnt on, in spreads of those faces. None when it was not measured.
    strangeness: Tensor | None = None


class Heads(nn.Module):
    """Linear questions to the class token of several layers, and to the patches."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        wide = layers * width
        #: In features that have no mean and unit spread, as `know` saw them.
        self.verdict = nn.Parameter(torch.zeros(wide))
        self.verdict_bias = nn.Parameter(torch.zeros(()))
        self.technique = nn.Linear(wide, len(Technique))
        self.grid = nn.Linear(wide, 1)
        self.narrow = nn.Linear(wide, NARROW)
        self.queries = nn.Parameter(torch.randn(len(REGIONS), NARROW) * NARROW**-0.5)
        self.regions = nn.Parameter(torch.randn(len(REGIONS), NARROW) * NARROW**-0.5)
        self.region_bias = nn.Parameter(torch.full((len(REGIONS),), -2.0))
        #: Where faces that were learnt on lie: directions in which they vary, and how much. Empty until `know`.
        self.register_buffer("middle", torch.zeros(wide))
        self.register_buffer("spread", torch.full((wide,), wide**-0.5))
        self.register_buffer("axes", torch.zeros(AXES, wide))
        self.register_buffer("spreads", torch.zeros(AXES + 1))
        nn.init.zeros_(self.grid.weight)
        nn.init.zeros_(self.technique.weight)

    def forward(self, states: Tensor) -> Seen:
        """(B, 1+P, L, D): hidden states of the layers that are read, the class token first."""
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
        """Remember where features (N, L·D) of faces to learn on lie and how they vary: N > `AXES` of them.

        The verdict stays what it was.
        """
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
        """(B, VIEW): features along directions drawn by chance, the same for ever, in spreads of the faces learnt on.

        Rounded to halves, and no further than `FURTHEST`.
        """
        draw = torch.Generator().manual_seed(VIEW_SEED)
        directions = torch.randn(len(self.middle), VIEW, generator=draw).to(features)
        along = (features - self.middle) @ directions / self.spread.norm()
        return (2 * along).round().div(2).clamp(-FURTHEST, FURTHEST)

    def _strangeness(self, features: Tensor) -> Tensor | None:
        """Root mean square of a face's distance along every axis and off all of them, each in spreads (Mahalanobis)."""
        axes, spreads, middle = (cast("Tensor", each) for each in (self.axes, self.spreads, self.middle))
        if not bool(spreads.any()):
            return None
        away = features - middle
        along = away @ axes.T  # (B, A)
        off = (away.square().sum(dim=-1) - along.square().sum(dim=-1)).clamp(min=0).sqrt()
        apart = torch.cat([along, off[:, None]], dim=-1) / spreads
        return apart.square().mean(dim=-1).sqrt()
