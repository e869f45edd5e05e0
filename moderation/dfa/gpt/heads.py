"""Heads on a tower's features, beside the language model: verdict, technique, findings, and foreign-looking pixels.

Verdict and technique may read two looks at a face: the whole crop, and a close-up of its middle (docs/models.md: what
that is worth).

They train the tower, decide the technique and what is wrong with which region, give the reviewer's evidence map, and
show how far the language model's verdict agrees with what the tower sees. A bundle carries them in `heads.safetensors`.

B pictures, P patches, L layers, D tower width, T techniques, R regions, K kinds of change.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.grounding.facts import GENERATED, MOST_ARTIFACTS, Kind, Touch

#: The parts of a face that the heads can name, in their order.
PARTS: tuple[Region, ...] = (
    Region.FOREHEAD,
    Region.EYES,
    Region.NOSE,
    Region.CHEEKS,
    Region.MOUTH,
    Region.JAWLINE,
    Region.FACE_BOUNDARY,
    Region.SKIN,
)
#: The parts, and the picture as a whole.
REGIONS: tuple[Region, ...] = (*PARTS, Region.UNMAPPED)
#: Principal axes of the training faces' features. Strangeness is measured along them.
AXES = 48
#: A face's view: how many numbers it has, the seed of their directions, and the largest absolute value.
VIEW, VIEW_SEED, FURTHEST = 8, 18, 8.0


@dataclass(frozen=True)
class Wrong:
    """What is wrong with B faces, if they are deepfakes: logits, and strengths."""

    grid: Tensor  # (B, P): how foreign each patch looks
    foreign: Tensor  # (B, L·D): the patches that look foreign, in one: see `Heads.look`
    regions: Tensor  # (B, R): whether a region was changed
    kinds: Tensor  # (B, R, K): how, if it was
    strengths: Tensor  # (B, R), in [0, 1]: how strongly, if it was


@dataclass(frozen=True)
class Seen(Wrong):
    """The heads' outputs for B pictures: logits, and the features."""

    verdict: Tensor  # (B,): from the whole crop's class token. The language model's margin is taught it
    local: Tensor  # (B,): what the patches and the close-up add to it, or take from it
    technique: Tensor  # (B, T)
    features: Tensor  # (B, L·D), of unit length: the class tokens of both looks
    patches: Tensor  # (B, L·D), of unit length: the mean patches of both looks
    #: (B,): distance from the training faces, in their standard deviations. None when it was not measured.
    strangeness: Tensor | None = None


class Heads(nn.Module):
    """Linear heads on the class token of several layers, the patches, their mean, and those that look foreign."""

    #: Side of the middle that is seen in a close-up, as a share of the crop's side. 0: there is none.
    close_up: Tensor

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        wide = layers * width
        #: The verdict of the class token: weights for features that are standardised by `middle` and `spread`.
        self.verdict = nn.Parameter(torch.zeros(wide))
        self.verdict_bias = nn.Parameter(torch.zeros(()))
        #: The verdict of both looks, from class tokens and mean patches.
        self.judgement = nn.Linear(2 * wide, 1)
        #: Each technique, from those and the patches that look foreign.
        self.technique = nn.Linear(3 * wide, len(Technique))
        self.grid = nn.Linear(wide, 1)
        self.regions = nn.Linear(wide, len(REGIONS))
        self.kinds = nn.Linear(wide, len(Kind))
        #: The kinds of change that each technique makes, and that each region shows.
        self.technique_kinds = nn.Parameter(torch.zeros(len(Technique), len(Kind)))
        self.region_kinds = nn.Parameter(torch.zeros(len(REGIONS), len(Kind)))
        self.strength = nn.Linear(wide, 1)
        self.region_strengths = nn.Parameter(torch.zeros(len(REGIONS)))
        self.register_buffer("close_up", torch.zeros(()))
        #: The training faces' features: mean, standard deviations, principal axes and deviations along them.
        #: `know` sets them.
        self.register_buffer("middle", torch.zeros(wide))
        self.register_buffer("spread", torch.full((wide,), wide**-0.5))
        self.register_buffer("axes", torch.zeros(AXES, wide))
        self.register_buffer("spreads", torch.zeros(AXES + 1))
        for head in (self.judgement, self.technique, self.grid, self.regions, self.kinds, self.strength):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def forward(
        self,
        states: Tensor,
        hidden: Tensor | None = None,
        closer: Tensor | None = None,
        closer_hidden: Tensor | None = None,
    ) -> Seen:
        """Read hidden states (B, 1+P, L, D) of the tower's chosen layers, the class token first.

        `closer` are those of the close-up. `hidden` and `closer_hidden` (B, P) say which patches are not looked at.
        """
        looks = [(_even(states), hidden)]
        if closer is not None:
            looks.append((_even(closer), closer_hidden))
        whole = looks[0][0]  # (B, 1+P, L·D)
        tokens = torch.stack([even[:, 0] for even, _ in looks]).sum(dim=0)
        means = torch.stack([_mean(even[:, 1:], unseen) for even, unseen in looks]).sum(dim=0)
        alone, features, patches = (F.normalize(each, dim=-1) for each in (whole[:, 0], tokens, means))
        grid, foreign = self.look(whole[:, 1:], hidden)
        verdict = self._told(alone)
        # Times the root of their number, so that weights are of ordinary size.
        read = (
            torch.cat([features, patches, F.normalize(foreign, dim=-1)], dim=-1) * features.shape[-1] ** 0.5
        )
        technique = self.technique(read)
        return Seen(
            verdict=verdict,
            local=self.judgement(read[:, : self.judgement.in_features])[:, 0] - verdict,
            technique=technique,
            **vars(self.wrong(grid, foreign, technique.argmax(dim=-1))),
            features=features,
            patches=patches,
            strangeness=self.strangeness(features),
        )

    def look(self, patches: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """How foreign each of the normalised patches (B, P, L·D) looks, (B, P), and their mean by that, (B, L·D)."""
        grid = self.grid(patches)[..., 0]
        shown = grid if hidden is None else grid.masked_fill(hidden, -torch.inf)
        return grid, (shown.softmax(dim=-1)[:, None] @ patches)[:, 0]

    def _told(self, tokens: Tensor) -> Tensor:
        """The verdict (B,) of class tokens (B, L·D) of unit length."""
        return ((tokens - self.middle) / self.spread) @ self.verdict + self.verdict_bias

    def wrong(self, grid: Tensor, foreign: Tensor, technique: Tensor) -> "Wrong":
        """What is wrong with faces, from what `look` gives and their techniques (B,), as indices."""
        return Wrong(
            grid=grid,
            foreign=foreign,
            regions=self.regions(foreign),
            kinds=(self.kinds(foreign) + self.technique_kinds[technique])[:, None] + self.region_kinds,
            strengths=(self.strength(foreign) + self.region_strengths).clamp(0, 1),
        )

    @property
    def fitted_later(self) -> list[nn.Parameter]:
        """What is fitted on the finished tower alone (`train/findings.py`)."""
        bare = [self.technique_kinds, self.region_kinds, self.region_strengths]
        return [*self.kinds.parameters(), *self.strength.parameters(), *bare]

    @property
    def finds(self) -> bool:
        """True when `train/findings.py` has fitted what is wrong with which region: then AD is worded from it."""
        return bool(self.kinds.weight.any())

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

    def strangeness(self, features: Tensor) -> Tensor | None:
        """Root mean square of a face's distances along each axis and off all axes, in spreads (Mahalanobis)."""
        axes, spreads, middle = (cast("Tensor", buffer) for buffer in (self.axes, self.spreads, self.middle))
        if not bool(spreads.any()):
            return None
        away = features - middle
        along = away @ axes.T  # (B, A)
        off = (away.square().sum(dim=-1) - along.square().sum(dim=-1)).clamp(min=0).sqrt()
        apart = torch.cat([along, off[:, None]], dim=-1) / spreads
        return apart.square().mean(dim=-1).sqrt()


def _even(states: Tensor) -> Tensor:
    """Hidden states (B, 1+P, L, D), each normalised, its layers in one: (B, 1+P, L·D)."""
    return F.layer_norm(states, states.shape[-1:]).flatten(2)


def _mean(patches: Tensor, hidden: Tensor | None) -> Tensor:
    """(B, L·D): the mean of the patches (B, P, L·D) that are not hidden."""
    if hidden is None:
        return patches.mean(dim=1)
    shown = (~hidden).to(patches.dtype)[:, None]
    return (shown @ patches)[:, 0] / shown.sum(dim=-1).clamp(min=1)


def findings(wrong: Wrong, technique: Tensor) -> list[tuple[Touch, ...]]:
    """What is wrong with each of B faces, if they are deepfakes: surest first.

    `technique` (B,) holds places in Technique. A face that is generated as a whole has one finding, about the whole
    picture. Of another face the regions are named that promise the best F1: for k regions, twice the sum of their
    probabilities divided by k plus the sum of all (plug-in rule; Dembczyński et al., NIPS 2011).
    """
    kinds, whole = list(Kind), list(Technique).index(Technique.EFS)
    named: list[tuple[Touch, ...]] = []
    for made, regions, kind, strength in zip(
        technique.tolist(),
        wrong.regions.sigmoid()[:, : len(PARTS)],
        wrong.kinds.argmax(dim=-1).tolist(),
        wrong.strengths.tolist(),
        strict=True,
    ):
        if made == whole:
            named.append((GENERATED,))
            continue
        sure, order = regions.sort(descending=True)
        counts = torch.arange(1, MOST_ARTIFACTS + 1, device=sure.device)
        promised = 2 * sure[:MOST_ARTIFACTS].cumsum(0) / (counts + sure.sum())
        places = order[: int(promised.argmax()) + 1].tolist()
        named.append(tuple(Touch(PARTS[place], kinds[kind[place]], strength[place]) for place in places))
    return named
