"""The tower of a base learns to see: verdict, technique, region and place, by its LayerNorms alone.

A CLIP tower knows faces; what tells a forged one is in its middle and late layers and must only be brought out. Tuning
the LayerNorms alone (40 thousand of 86 million weights), with features on the sphere and pairs of the same moment,
carries over to forgeries of other makers better than tuning more (GenD, arXiv 2508.06248). The features of several
layers are read (RINE, ECCV 2024): the same that the projector takes.

One process or many, on CPUs or GPUs, with one command: `accelerate launch -m moderation.cli.main dfa train sight …`.
Every two of examples is drawn from its own number: processes share a batch, and a resumed run goes on where it was.

B examples, P patches, L layers, D tower width, R regions.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from torch.utils.data import DataLoader, Dataset
from transformers import AutoConfig, AutoModel, LlavaConfig

from moderation.analysis import Technique
from moderation.dfa.gpt.bundle import CLIP_MEAN, CLIP_STD
from moderation.dfa.gpt.close_up import close_up
from moderation.dfa.gpt.detector import multiplies_bfloat16
from moderation.dfa.gpt.heads import REGIONS, Heads, Seen
from moderation.dfa.instruct.examples import Example
from moderation.dfa.instruct.stored import Twos, twos_in
from moderation.dfa.train.run import log, state_of, state_tensors, warmed_cosine
from moderation.errors import SetupProblem

TECHNIQUE_IDS: Mapping[Technique, int] = {technique: index for index, technique in enumerate(Technique)}
#: A target that is not known.
UNKNOWN = -100
#: Layers of the packaged tower that `small` reads. What they are worth on sources left out: docs/models.md.
READ = (7, 8, 9, 12)
#: Side of the middle that the heads of `small` see in a close-up, as a share of the crop's: ten of fourteen patches.
CLOSE_UP = 10 / 14
#: Parts of a tower that learn: its normalisations, by the ends of their names.
NORMS = ("layer_norm1", "layer_norm2", "pre_layrnorm")


@dataclass(frozen=True)
class SightPlan:
    """How a tower is trained. Recorded beside its weights."""

    steps: int = 1000
    #: Twos of examples per step, over all processes.
    twos: int = 8
    rate: float = 4e-4  # of the LayerNorms
    head_rate: float = 1.5e-3
    verdict_rate: float = 2e-4  # of the verdict's weights, in features of unit spread
    #: Faces, before the first step, by which features are brought to no mean and unit spread.
    known: int = 256
    warmup: int = 40  # steps
    #: Weights that are kept are a moving average with this memory per step.
    average: float = 0.99
    loaders: int = 1
    seed: int = 0
    #: Sources, or lab techniques as "lab/FS", that are left out.
    without: tuple[str, ...] = ()
    #: Layers of the tower that are read. Empty: those that the base's config.json names.
    layers: tuple[int, ...] = ()
    #: Steps between checkpoints.
    save_every: int = 50
    #: Weights of the parts of the loss. Alignment and uniformity are those of Wang and Isola (ICML 2020).
    verdict: float = 1.0
    order: float = 0.5
    technique: float = 1.0
    regions: float = 0.7
    grid: float = 0.7
    alignment: float = 0.1
    uniformity: float = 0.1


@dataclass(frozen=True)
class Batch:
    """Examples as tensors, in twos: bona fide, forged. Targets that are not known are `UNKNOWN`."""

    pixels: Tensor  # (B, 3, S, S) float32
    deepfake: Tensor  # (B,) float32
    technique: Tensor  # (B,) int64
    grid: Tensor  # (B, P) float32
    regions: Tensor  # (B, R) float32


def as_pixels(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 crops to the tower's input (B, 3, S, S)."""
    return standardised(torch.from_numpy(np.stack(pictures)), CLIP_MEAN, CLIP_STD)


def standardised(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, S, S, 3) uint8 to (B, 3, S, S) float32, as (x/255 − mean)/std."""
    middle, spread = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (pictures.permute(0, 3, 1, 2).float() / 255 - middle) / spread


def as_tensors(examples: Sequence[Example]) -> dict[str, Tensor]:
    """The fields of a `Batch`, as a loader's processes pass them on."""
    grids = [np.full((14, 14), UNKNOWN, np.float32) if each.grid is None else each.grid for each in examples]
    return {
        "pixels": torch.from_numpy(np.stack([example.pixels for example in examples])),
        "deepfake": torch.tensor([float(example.deepfake) for example in examples]),
        "technique": torch.tensor([TECHNIQUE_IDS[e.technique] if e.technique else UNKNOWN for e in examples]),
        "grid": torch.from_numpy(np.stack(grids)).flatten(1),
        "regions": torch.tensor([_region_targets(example) for example in examples]),
    }


def _region_targets(example: Example) -> list[float]:
    if example.facts is None:
        return [float(UNKNOWN)] * len(REGIONS)
    touched = {touch.region for touch in example.facts}
    return [float(region in touched) for region in REGIONS]


class Drawn(Dataset[tuple[Example, Example]]):
    """Item n is the two number n drawn from a folder. The same seed gives the same items in every process."""

    def __init__(self, faces: Path, twos: int, *, without: Collection[str], seed: int) -> None:
        self.faces, self.twos, self.without, self.seed = faces, twos, tuple(without), seed
        self._twos: Twos | None = None

    def __len__(self) -> int:
        return self.twos

    def __getitem__(self, number: int) -> tuple[Example, Example]:
        if self._twos is None:
            torch.set_num_threads(1)
            self._twos = twos_in(self.faces, "train", without=self.without)
        return self._twos.number(number, self.seed)


def side_by_side(twos: Sequence[tuple[Example, Example]]) -> list[Example]:
    return [each for two in twos for each in two]


def _collated(twos: Sequence[tuple[Example, Example]]) -> dict[str, Tensor]:
    return as_tensors(side_by_side(twos))


def batches(faces: Path, plan: SightPlan, *, first: int, rank: int, world: int) -> Iterator[Batch]:
    """This process's share of every batch from step `first` on: groups of twos go to the processes in turn."""
    numbers = range(first * plan.twos, plan.steps * plan.twos)
    mine = [number for number in numbers if number // GROUP % world == rank]
    loader = DataLoader(
        Drawn(faces, plan.steps * plan.twos, without=plan.without, seed=plan.seed),
        sampler=cast("Any", mine),
        collate_fn=_collated,
        batch_size=plan.twos // world,
        num_workers=plan.loaders,
        prefetch_factor=4 if plan.loaders else None,
    )
    for fields in loader:
        yield Batch(**{**fields, "pixels": standardised(fields["pixels"], CLIP_MEAN, CLIP_STD)})


class Sight(nn.Module):
    """A tower and what reads it."""

    def __init__(self, base: Path, layers: Sequence[int] = ()) -> None:
        """`base` is a folder with a LLaVA's config.json and model.safetensors. `layers`: see `SightPlan.layers`."""
        super().__init__()
        config = cast("LlavaConfig", AutoConfig.from_pretrained(base))
        self.layers: tuple[int, ...] = tuple(layers or cast("Any", config.vision_feature_layer))
        vision = cast("Any", config.vision_config)
        self.tower = AutoModel.from_config(vision)
        self.tower.load_state_dict(_tower_weights(base / "model.safetensors"))
        self.heads = Heads(len(self.layers), vision.hidden_size)
        self.tower.requires_grad_(requires_grad=False)
        for weight in self.heads.fitted_later:
            weight.requires_grad_(False)  # noqa: FBT003  a parameter takes it so
        for name, module in self.tower.named_modules():
            if name.endswith(NORMS):
                module.requires_grad_(requires_grad=True)

    def forward(self, pixels: Tensor) -> Seen:
        """(B, 3, S, S) to what the heads say, of a close-up too when they read one."""
        share = float(self.heads.close_up)
        closer = self.states(close_up(pixels, share)) if share else None
        return self.heads(self.states(pixels), closer=closer)

    def states(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to the hidden states that the heads read, (B, 1+P, L, D) float32, class token first."""
        states = self.tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        return torch.stack([states[layer] for layer in self.layers], dim=2).float()

    def as_input(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """uint8 crops as its input, in the numbers of its weights."""
        weight = next(weight for weight in self.tower.parameters() if weight.dim() > 1)
        return as_pixels(pictures).to(weight.dtype)

    def look_closer(self) -> None:
        """From here on the heads read a close-up too. While the tower learns, one look is enough, at half the cost."""
        self.heads.close_up.fill_(CLOSE_UP)

    def learnt(self) -> dict[str, Tensor]:
        """What training changes, by name: norms and heads."""
        named = {name: weight for name, weight in self.named_parameters() if weight.requires_grad}
        kept = {f"heads.{name}": value for name, value in self.heads.named_buffers()}
        return {name: weight.detach() for name, weight in (named | kept).items()}

    def lighten(self) -> None:
        """Hold what stands still in bfloat16, and what learns in float32: a step is below the grain of a bfloat16."""
        for module in self.tower.modules():
            if isinstance(module, nn.LayerNorm):
                module.forward = cast("Any", _in_its_own_type(module))
            else:
                for name, weight in list(module.named_parameters(recurse=False)):
                    setattr(module, name, nn.Parameter(weight.bfloat16(), requires_grad=False))


def _in_its_own_type(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        y = F.layer_norm(x.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return y.to(x.dtype)

    return forward


def _tower_weights(file: Path) -> dict[str, Tensor]:
    prefix = "vision_tower."
    with safe_open(file, framework="pt") as tensors:
        names = [name for name in tensors.keys() if prefix in name]  # noqa: SIM118  safe_open is no mapping
        return {name.split(prefix, 1)[1]: tensors.get_tensor(name).float() for name in names}


#: Twos whose features are held against each other: a group never lies in two processes.
GROUP = 4


def losses(seen: Seen, batch: Batch) -> dict[str, Tensor]:
    """What each head got wrong. A target that is not known costs nothing.

    Each is a sum over the batch by its size, so that the mean over the parts of a batch is that of the whole.
    """
    # The class token must tell by itself, and with the patches: what is in one alone is soon all that is learnt.
    verdicts = (seen.verdict, seen.verdict + seen.local)
    costs = [F.binary_cross_entropy_with_logits(verdict, batch.deepfake) for verdict in verdicts]
    return {
        "verdict": torch.stack(costs).mean(),
        "order": torch.stack([_order(verdict) for verdict in verdicts]).mean(),
        "technique": F.cross_entropy(seen.technique, batch.technique, ignore_index=UNKNOWN, reduction="sum")
        / len(batch.deepfake),
        "regions": _known(seen.regions, batch.regions),
        "grid": _known(seen.grid, batch.grid),
        "alignment": _alignment(seen.features, batch.deepfake),
        "uniformity": _uniformity(seen.features),
    }


def _order(verdict: Tensor) -> Tensor:
    """Of each two, bona fide first, the forged one should score higher: what both share cannot help.

    Pairwise logistic loss (Burges et al., "Learning to Rank using Gradient Descent", ICML 2005).
    """
    bona_fide, forged = verdict.view(-1, 2).unbind(dim=1)
    return F.softplus(bona_fide - forged).mean()


def _known(logits: Tensor, targets: Tensor) -> Tensor:
    known = targets != UNKNOWN
    costs = F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0), reduction="none")
    return (costs * known).mean()


def _alignment(features: Tensor, deepfake: Tensor) -> Tensor:
    """Mean squared distance, within a group, of features on the sphere that share a label."""
    size = min(2 * GROUP, len(deepfake))
    grouped, labels = features.view(-1, size, features.shape[-1]), deepfake.view(-1, size)
    same = (labels[:, :, None] == labels[:, None]) & ~torch.eye(size, dtype=torch.bool, device=labels.device)
    return (torch.cdist(grouped, grouped).square() * same).sum() / same.sum().clamp(min=1)


def _uniformity(features: Tensor) -> Tensor:
    """Log mean exp(−2·d²) over the distances within a group: low when features fill the sphere."""
    groups = features.view(-1, min(2 * GROUP, len(features)), features.shape[-1])
    logs = [torch.pdist(group).square().mul(-2).exp().mean().clamp(min=1e-12).log() for group in groups]
    return torch.stack(logs).mean()


def train_sight(base: Path, faces: Path, out: Path, plan: SightPlan, *, after: Path | None = None) -> Sight:
    """Train for `plan.steps`; resume from `out` when it holds a checkpoint. Returns the averaged model.

    `faces` is a pool, which forges as it trains, or a folder of DFA-Instruct. `after` is the folder of an earlier run
    to go on from.

    `out/sight.jsonl` holds the metrics, `out/sight.safetensors` the moving average of what was learnt. Raise
    SetupProblem when the batch cannot be shared by so many processes.
    """
    accelerator = Accelerator()
    rank, world = accelerator.process_index, accelerator.num_processes
    if plan.twos % world or (world > 1 and plan.twos // world % GROUP):
        raise SetupProblem(
            f"{plan.twos} twos of a step cannot be shared by {world} processes in groups of {GROUP}."
        )
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    model = Sight(base, plan.layers) if after is None else load_sight(base, after).train()
    plan = replace(plan, layers=model.layers)  # those of the run before, if it goes on from one
    average = Average(model, plan.average)
    first, optimiser_state = _resumed(model, average, out)
    bf16 = accelerator.device.type == "cuda" or multiplies_bfloat16()
    if bf16:
        model.lighten()
    if not first:
        model.heads.know(_first_features(model, faces, plan, bf16=bf16, device=accelerator.device))
        average = Average(model, plan.average)
    norms = [weight for weight in model.tower.parameters() if weight.requires_grad]
    heads = [weight for name, weight in model.heads.named_parameters() if name != "verdict"]
    groups = [
        {"params": norms, "rate": plan.rate, "weight_decay": 0.0},
        {"params": [model.heads.verdict], "rate": plan.verdict_rate, "weight_decay": 0.1},
        {"params": heads, "rate": plan.head_rate, "weight_decay": 0.02},
    ]
    optimiser = torch.optim.AdamW(cast("Any", groups), betas=(0.9, 0.98))
    prepared, optimiser = accelerator.prepare(model, optimiser)
    if optimiser_state is not None:
        optimiser.load_state_dict({**optimiser.state_dict(), **optimiser_state})
    began = time.monotonic()
    for step, drawn in enumerate(batches(faces, plan, first=first, rank=rank, world=world), start=first):
        batch = Batch(**{name: value.to(accelerator.device) for name, value in vars(drawn).items()})
        pixels = batch.pixels.bfloat16() if bf16 else batch.pixels
        for group in optimiser.param_groups:
            # A warm-up, then a cosine to a fiftieth.
            group["lr"] = group["rate"] * warmed_cosine(step, plan.steps, warm=plan.warmup, floor=0.02)
        parts = losses(prepared(pixels), batch)
        loss = torch.stack([getattr(plan, name) * part for name, part in parts.items()]).sum()
        optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(prepared.parameters(), 5.0)
        optimiser.step()
        average.remember(model, step)
        shared = cast("Tensor", accelerator.reduce(torch.stack(list(parts.values())).detach(), "mean"))
        if accelerator.is_main_process:
            entry = {name: round(value, 4) for name, value in zip(parts, shared.tolist(), strict=True)}
            seconds = round(time.monotonic() - began)
            log(out / "sight.jsonl", {"step": step + 1, "seconds": seconds, **entry})
            if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
                _save(model, average, optimiser, out, step=step + 1, plan=plan)
    accelerator.wait_for_everyone()
    return load_sight(base, out)


def _first_features(
    model: Sight, faces: Path, plan: SightPlan, *, bf16: bool, device: torch.device
) -> Tensor:
    """(N, L·D): features of faces that are drawn beside the steps, the same in every process."""
    model.to(device)
    aside = replace(plan, seed=plan.seed + 1_000_003, steps=max(plan.known // (2 * plan.twos), 1))
    features: list[Tensor] = []
    with torch.no_grad():
        for batch in batches(faces, aside, first=0, rank=0, world=1):
            pixels = batch.pixels.to(device)
            features.append(model(pixels.bfloat16() if bf16 else pixels).features)
    return torch.cat(features)


class Average:
    """A moving average of what is learnt: it carries over better than the last step does."""

    def __init__(self, model: Sight, memory: float) -> None:
        self.memory = memory
        self.weights = {name: value.clone().float() for name, value in model.learnt().items()}

    def remember(self, model: Sight, step: int) -> None:
        memory = min(self.memory, (step + 1) / (step + 10))
        for name, value in model.learnt().items():
            self.weights[name].lerp_(value.float().to(self.weights[name].device), 1 - memory)


def _save(model: Sight, average: Average, optimiser: Any, out: Path, *, step: int, plan: SightPlan) -> None:
    """Written beside and moved into place: who is stopped here finds the checkpoint before."""
    tensors = {f"now.{name}": value for name, value in model.learnt().items()}
    tensors |= {f"optimiser.{name}": value for name, value in state_tensors(optimiser).items()}
    files = {"sight.safetensors": average.weights, "resume.safetensors": tensors}
    for name, content in files.items():
        beside = out / f".{name}"
        save_file({key: value.contiguous().cpu() for key, value in content.items()}, beside)
        beside.replace(out / name)
    (out / "sight.json").write_text(
        json.dumps({"step": step, "plan": asdict(plan)}, indent=1), encoding="utf-8"
    )


def _resumed(model: Sight, average: Average, out: Path) -> tuple[int, dict[str, Any] | None]:
    """Steps already done and the optimiser's state; 0 and None without a checkpoint."""
    if not (out / "sight.json").is_file():
        return 0, None
    begun = json.loads((out / "sight.json").read_text(encoding="utf-8"))
    stored: dict[str, dict[str, Tensor]] = {"now": {}, "optimiser": {}}
    for name, value in load_file(out / "resume.safetensors").items():
        part, _, rest = name.partition(".")
        stored[part][rest] = value
    model.load_state_dict(stored["now"], strict=False)
    average.weights = load_file(out / "sight.safetensors")
    return int(begun["step"]), {"state": state_of(stored["optimiser"])}


def load_sight(base: Path, out: Path) -> Sight:
    """The averaged tower and heads of a run, finished or not."""
    file = out / "sight.safetensors"
    if not file.is_file():
        raise SetupProblem(f"{out} holds no trained tower: `bonafide dfa train sight` trains one.")
    plan = json.loads((out / "sight.json").read_text(encoding="utf-8"))["plan"]
    model = Sight(base, plan.get("layers", ()))
    _, unexpected = model.load_state_dict(load_file(file), strict=False)
    if unexpected:
        raise SetupProblem(f"{file} was trained on another base: it holds {unexpected[0]}.")
    return model.eval()
