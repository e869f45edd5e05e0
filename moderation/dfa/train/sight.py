"""The small tower learns to see before it learns to speak: verdict, technique, region and place from its tokens.

The heads that teach it here are thrown away. What stays is a tower whose tokens hold the evidence in the open, so
that a language model of two million weights can read it. The first blocks of the ImageNet stem stay as they are:
they cost most of a step, and the residue branch learns the fine grain in their place.

B examples, P tokens, D tower width, Q queries, R regions.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from torch.utils.data import DataLoader, IterableDataset

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.tower import Tower, TowerConfig
from moderation.dfa.instruct.examples import GRID, KINDS, Example, Examples
from moderation.dfa.instruct.pool import open_pool
from moderation.errors import SetupProblem

#: The tower's pixels: (x − 127)/128, as `TowerConfig.residual_gain` assumes, in the form of a bundle's constants.
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255

TECHNIQUE_IDS: Mapping[Technique, int] = {technique: index for index, technique in enumerate(Technique)}
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
#: A target that is not known.
UNKNOWN = -100


@dataclass(frozen=True)
class SightPlan:
    """How the tower is trained. Recorded beside its weights."""

    #: Wall time, seconds. The learning rate falls to nothing over it.
    seconds: float = 1800.0
    #: Twos of examples per step.
    twos: int = 8
    rate: float = 1e-3  # of what starts from nothing
    stem_rate: float = 3e-4  # of the ImageNet stem
    weight_decay: float = 1e-4
    #: Blocks of the stem that are not trained.
    frozen_blocks: int = 3
    #: Weights that are kept are a moving average with this memory per step.
    average: float = 0.998
    loaders: int = 1
    threads: int = 1
    seed: int = 0
    #: Sources or lab techniques that are left out.
    without: tuple[str, ...] = ()
    #: Seconds between checkpoints.
    checkpoint: float = 300.0


@dataclass(frozen=True)
class Batch:
    """Examples as tensors. Targets that are not known are `UNKNOWN`."""

    pixels: Tensor  # (B, 3, S, S) float32
    deepfake: Tensor  # (B,) float32
    technique: Tensor  # (B,) int64
    grid: Tensor  # (B, GRID·GRID) float32
    regions: Tensor  # (B, R) float32


class Heads(nn.Module):
    """Questions put to the tower's tokens: one query each for verdict and technique, one for every region."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(2 + len(REGIONS), width) * width**-0.5)
        self.keys = nn.Linear(width, width)
        self.verdict = nn.Linear(2 * width, 1)
        self.technique = nn.Linear(2 * width, len(Technique))
        self.regions = nn.Parameter(torch.randn(len(REGIONS), 2 * width) * (2 * width) ** -0.5)
        self.region_bias = nn.Parameter(torch.full((len(REGIONS),), -2.0))
        self.grid = nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, P, D) -> verdict (B,), technique (B, 4), regions (B, R), grid (B, P), all logits."""
        scale = tokens.shape[-1] ** -0.5
        shares = (self.queries @ self.keys(tokens).transpose(1, 2) * scale).softmax(dim=-1)  # (B, Q, P)
        mean = tokens.mean(dim=1, keepdim=True).expand(-1, self.queries.shape[0], -1)
        seen = F.dropout(torch.cat([shares @ tokens, mean], dim=-1), 0.1, self.training)  # (B, Q, 2D)
        regions = (seen[:, 2:] * self.regions).sum(dim=-1) + self.region_bias
        return self.verdict(seen[:, 0])[:, 0], self.technique(seen[:, 1]), regions, self.grid(tokens)[..., 0]


def as_pixels(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 crops to the tower's input (B, 3, S, S)."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
    return (stacked / 255 - PIXEL_MEAN) / PIXEL_STD


def as_batch(examples: Sequence[Example]) -> Batch:
    unknown_grid = np.full((GRID, GRID), UNKNOWN, np.float32)
    return Batch(
        pixels=as_pixels([example.pixels for example in examples]),
        deepfake=torch.tensor([float(example.deepfake) for example in examples]),
        technique=torch.tensor(
            [TECHNIQUE_IDS[example.technique] if example.technique else UNKNOWN for example in examples]
        ),
        grid=torch.from_numpy(
            np.stack([unknown_grid if example.grid is None else example.grid for example in examples])
        ).flatten(1),
        regions=torch.tensor([_region_targets(example) for example in examples]),
    )


def _region_targets(example: Example) -> list[float]:
    if example.facts is None:
        return [float(UNKNOWN)] * len(REGIONS)
    touched = {touch.region for touch in example.facts}
    return [float(region in touched) for region in REGIONS]


def losses(outputs: tuple[Tensor, Tensor, Tensor, Tensor], batch: Batch) -> dict[str, Tensor]:
    """What each head got wrong; a target that is not known costs nothing."""
    verdict, technique, regions, grid = outputs
    return {
        "verdict": F.binary_cross_entropy_with_logits(verdict, batch.deepfake),
        "order": _order(verdict),
        "technique": _known_class(technique, batch.technique),
        "regions": _known(regions, batch.regions),
        "grid": _known(grid, batch.grid),
    }


def _order(verdict: Tensor) -> Tensor:
    """Of each two, bona fide first, the forged one should score higher: what both share cannot help.

    Pairwise logistic loss (Burges et al., "Learning to Rank using Gradient Descent", ICML 2005).
    """
    bona_fide, forged = verdict.view(-1, 2).unbind(dim=1)
    return F.softplus(bona_fide - forged).mean()


def _known(logits: Tensor, targets: Tensor) -> Tensor:
    known = targets != UNKNOWN
    return F.binary_cross_entropy_with_logits(logits[known], targets[known])


def _known_class(logits: Tensor, targets: Tensor) -> Tensor:
    """A mean over no example at all would not be a number."""
    total = F.cross_entropy(logits, targets, ignore_index=UNKNOWN, reduction="sum")
    return total / (targets != UNKNOWN).sum().clamp(min=1)


WEIGHTS: Mapping[str, float] = {"verdict": 1.0, "order": 0.5, "technique": 0.5, "regions": 1.0, "grid": 0.8}


class Stream(IterableDataset[list[Example]]):
    """Batches of twos for ever; each loader process draws its own."""

    def __init__(
        self, pool: Path, plan: SightPlan, kinds: Mapping[str, float] = KINDS, start: int = 0
    ) -> None:
        self.pool, self.plan, self.kinds, self.start = pool, plan, kinds, start

    def __iter__(self) -> Iterator[list[Example]]:
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.plan.seed, self.start, worker.id if worker else 0])
        examples = Examples(open_pool(self.pool), "train", kinds=self.kinds, without=self.plan.without)
        while True:
            yield [example for _ in range(self.plan.twos) for example in examples.two(rng)]


def example_batches(pool: Path, plan: SightPlan, *, start: int) -> Iterator[list[Example]]:
    """Batches for ever. `start` makes a resumed run draw other examples than the first."""
    stream = Stream(pool, plan, start=start)
    loader = DataLoader(stream, batch_size=None, num_workers=plan.loaders, collate_fn=_as_they_are)
    return iter(cast("Any", loader))


def _as_they_are(examples: list[Example]) -> list[Example]:
    return examples


def train_tower(tower: Tower, pool: Path, out: Path, plan: SightPlan) -> Tower:
    """Train until the time is over; resume from `out` when it holds a checkpoint. Returns the averaged tower."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    learner = Learner(tower, plan)
    spent, step = learner.resume(out)
    started, saved = time.monotonic() - spent, spent
    with (out / "sight.jsonl").open("a", encoding="utf-8") as log:
        for examples in example_batches(pool, plan, start=step):
            spent = time.monotonic() - started
            if spent >= plan.seconds:
                break
            parts = learner.step(as_batch(examples), progress=spent / plan.seconds)
            step += 1
            if step % 10 == 0:
                log.write(json.dumps({"step": step, "seconds": round(spent), **parts}) + "\n")
                log.flush()
            if spent - saved > plan.checkpoint:
                learner.save(out, seconds=spent, step=step)
                saved = spent
    learner.save(out, seconds=spent, step=step)
    return load_sight(out, tower.config)[0]


class Learner:
    """The tower, its heads, their optimiser and their moving average."""

    def __init__(self, tower: Tower, plan: SightPlan) -> None:
        self.plan = plan
        self.model = nn.ModuleDict({"tower": tower, "heads": Heads(tower.config.hidden_size)})
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.frozen = [tower.stem.conv_stem, tower.stem.bn0, *tower.stem.blocks[: plan.frozen_blocks]]
        for module in self.frozen:
            module.requires_grad_(requires_grad=False)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimiser = torch.optim.AdamW(self._groups(tower), weight_decay=plan.weight_decay)
        self.steps = 0

    def _groups(self, tower: Tower) -> list[dict[str, Any]]:
        stem = [weight for weight in tower.stem.parameters() if weight.requires_grad]
        known = {id(weight) for weight in tower.stem.parameters()}
        rest = [weight for weight in self.model.parameters() if id(weight) not in known]
        return [
            {"params": stem, "rate": self.plan.stem_rate},
            {"params": rest, "rate": self.plan.rate},
        ]

    def step(self, batch: Batch, *, progress: float) -> dict[str, float]:
        """One step; `progress` in [0, 1] sets the learning rate. Returns the parts of the loss."""
        self.model.train()
        for module in self.frozen:
            module.eval()
        factor = min(1.0, (self.steps + 1) / 50) * 0.5 * (1 + np.cos(np.pi * min(progress, 1.0)))
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * factor
        tokens = self.model["tower"](batch.pixels.contiguous(memory_format=torch.channels_last))
        parts = losses(self.model["heads"](tokens.last_hidden_state), batch)
        loss = torch.stack([WEIGHTS[name] * part for name, part in parts.items()]).sum()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimiser.step()
        self.steps += 1
        self._remember()
        return {name: round(part.item(), 4) for name, part in parts.items()}

    def _remember(self) -> None:
        memory = min(self.plan.average, self.steps / (self.steps + 10))
        for name, value in self.model.state_dict().items():
            kept = self.average[name]
            if kept.is_floating_point():
                kept.lerp_(value, 1 - memory)
            else:
                kept.copy_(value)

    def save(self, out: Path, *, seconds: float, step: int) -> None:
        """Weights, their average and how far we are. The optimiser starts anew after a resume."""
        save_file(
            {name: value.contiguous() for name, value in self.model.state_dict().items()},
            out / "sight.safetensors",
        )
        save_file(
            {name: value.contiguous() for name, value in self.average.items()},
            out / "sight.average.safetensors",
        )
        state = {"seconds": seconds, "step": step, "plan": asdict(self.plan)}
        (out / "sight.json").write_text(json.dumps(state, indent=1), encoding="utf-8")

    def resume(self, out: Path) -> tuple[float, int]:
        """Seconds and steps already spent; 0 without a checkpoint."""
        if not (out / "sight.json").is_file():
            return 0.0, 0
        state = json.loads((out / "sight.json").read_text(encoding="utf-8"))
        self.model.load_state_dict(load_file(out / "sight.safetensors"))
        self.average = load_file(out / "sight.average.safetensors")
        self.steps = state["step"]
        return state["seconds"], state["step"]


def load_sight(out: Path, config: TowerConfig) -> tuple[Tower, Heads]:
    """The averaged tower and heads of a run, finished or not."""
    file = out / "sight.average.safetensors"
    if not file.is_file():
        raise SetupProblem(f"{out} holds no trained tower: `bonafide dfa train mini` trains one first.")
    model = nn.ModuleDict({"tower": Tower(config), "heads": Heads(config.hidden_size)})
    model.load_state_dict(load_file(file))
    model.eval()
    return cast("Tower", model["tower"]), cast("Heads", model["heads"])
