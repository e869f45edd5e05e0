"""From labelled folders to the bundle `small`: base, pool, sight, speech, calibration, report, card. One run.

Each stage leaves its work in the run's folder and is not repeated; within a stage, training goes on at its last
checkpoint. The order says what may be claimed: the tower is first trained without some sources and judged on those,
and the probabilities of the shipped bundle are fitted on that judgement, never on pictures it was trained on.
"""

import datetime
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moderation.analysis import Label, Technique
from moderation.dfa.gpt.base import BASE_DIGEST, assemble_base, base_of, cache_folder
from moderation.dfa.gpt.bundle import (
    Bundle,
    BundleCard,
    BundleSpec,
    load_bundle,
    packaged_base,
    write_card,
)
from moderation.dfa.gpt.calibration import Platt, save_platt
from moderation.dfa.gpt.detector import Policy, precision, zone_of
from moderation.dfa.gpt.heads import Heads
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.instruct.builder import build
from moderation.dfa.instruct.examples import Examples
from moderation.dfa.instruct.pool import Pool, build_pool, open_pool
from moderation.dfa.train.calibrate import write_calibration
from moderation.dfa.train.lora import LoraPlan, train_lora
from moderation.dfa.train.probe import Stored, fit_probes, held_out, stored_features
from moderation.dfa.train.report import Report, as_text, examples_to_judge, judge, report, seconds_per_face
from moderation.dfa.train.sight import Sight, SightPlan, as_pixels, train_sight
from moderation.dfa.train.sources_out import (
    as_json,
    as_table,
    calibrated,
    honesty,
    left_out,
    look_at,
    strangers,
    strangest,
)

#: Left out first: a source or more of every technique that the pool has real forgeries of, and cameras of their own.
STRANGERS = ("openforensics_crops", "stargan_celeba", "sfhq_t2i_470", "ifg_gan_faces", "gsa18f_team")
CALIBRATION_FILE, HEADS_FILE = "calibration.json", "heads.safetensors"


@dataclass(frozen=True)
class SmallPlan:
    """How much of everything."""

    #: Without `strangers`, then on with everything.
    without: SightPlan = field(default_factory=lambda: SightPlan(steps=320, without=STRANGERS))
    sight: SightPlan = field(default_factory=lambda: SightPlan(steps=450, seed=1, warmup=20))
    #: Twos of DFA-Instruct, and the paper's recipe at this model's size.
    twos: int = 3200
    lora: LoraPlan = field(
        default_factory=lambda: LoraPlan(
            rank=16, alpha=32, dropout=0.0, rate=1e-3, projector_rate=5e-4, save_every=25
        )
    )
    #: Twos of each lab technique, and pictures of each origin and label, for the report.
    report_lab: int = 40
    report_pooled: int = 60
    version: str = "1"


def train_small(
    data: Path, work: Path, out: Path, plan: SmallPlan, *, now: datetime.datetime, say: Callable[[str], None]
) -> tuple[BundleSpec, Report]:
    """Everything. `work` keeps the pool and the checkpoints, `out` becomes the bundle."""
    if not (cache_folder() / BASE_DIGEST).is_dir():
        say("Fetching the base …")
        assemble_base(cache_folder())
    base = base_of(BASE_DIGEST)
    pool_folder = work / "pool"
    if not (pool_folder / "losses.json").is_file():
        say("Bringing every picture to the pool's normal form …")
        build_pool(data, pool_folder, processes=2)
    pool = open_pool(pool_folder)
    say(f"Teaching the tower to see without {', '.join(plan.without.without)} …")
    stranger = train_sight(base, pool_folder, work / "sight-without", plan.without)
    say("Teaching it everything …")
    sight = train_sight(base, pool_folder, work / "sight", plan.sight, after=work / "sight-without")
    say("Building DFA-Instruct …")
    instruct = work / "instruct"
    if not (instruct / "conversations.json").is_file():
        build(pool, instruct, load_prompts(2), split="train", twos=plan.twos, seed=plan.sight.seed)
    say("Fitting what reads the tower …")
    seen = stored_features(stranger, instruct).without(plan.without.without)
    platt = judge_strangers(stranger, seen, pool, work, plan, today=now.date())
    fit_probes(sight.heads, stored_features(sight, instruct))
    say("Teaching the model to speak …")
    bundle = sighted(base_bundle(), sight, pool)
    train_lora(bundle, instruct / "conversations.json", work / "speech", plan.lora)
    spec = write_small(work, out, bundle.heads, platt, plan)
    spec = write_calibration(spec, through_words(spec, platt, pool))
    say("Judging it …")
    result = report_small(spec, pool, plan)
    write_model_card(spec, result, work, pool, plan, now=now)
    return spec, result


def base_bundle() -> Bundle:
    """The packaged base, ready to be trained, in the numbers that this processor is quick in."""
    spec = packaged_base()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return load_bundle(spec, device=device, dtype=precision(spec, device))


def judge_strangers(
    sight: Sight, stored: Stored, pool: Pool, work: Path, plan: SmallPlan, *, today: datetime.date
) -> Platt:
    """What the first tower says of sources it never saw, written down, and the calibration by the sources that it saw.

    Each face of those was judged by a verdict that was fitted without its source. The strangers take no part in the
    calibration: what is said of them says how far it holds.
    """
    platt = calibrated(held_out(stored), stored.deepfake, stored.origin, version=today.isoformat())
    fit_probes(sight.heads, stored)
    looked = look_at(sight, pool, left_out(pool, plan.without.without))
    names = ", ".join(np.unique(stored.source))
    platt = replace(
        platt, basis=f"each of these sources, judged without it: {names}", strangest=strangest(looked)
    )
    found, kept = strangers(looked, platt), honesty(looked, platt)
    told = {"strangers": as_json(found), "honesty": {name: vars(value) for name, value in kept.items()}}
    (work / "strangers.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    lines = "".join(f"- {name}: {value}\n" for name, value in kept.items())
    (work / "strangers.md").write_text(f"{as_table(found)}\n{lines}", encoding="utf-8")
    return platt


# --- from sight to speech


def sighted(bundle: Bundle, sight: Sight, pool: Pool) -> Bundle:
    """The base with a tower that has learnt to see, its heads, and a projector that begins with what they look at."""
    weights = {
        name: value
        for name, value in sight.tower.state_dict().items()
        if "norm" in name or "layrnorm" in name
    }
    missing = bundle.model.model.vision_tower.load_state_dict(weights, strict=False).unexpected_keys
    assert not missing, missing
    heads = sight.heads.float().eval()
    pictures = some_faces(pool)
    begin_projector(bundle, heads, pictures)
    return replace(bundle, heads=heads)


def some_faces(pool: Pool, count: int = 48, *, seed: int = 0) -> list[np.ndarray]:
    """Faces of the training split through the lab's chains, evenly over its kinds of two."""
    drawn = Examples(pool, "train")
    rng = np.random.default_rng([seed, 29])
    kinds = list(drawn.kinds)
    return [
        example.pixels
        for number in range(count // 2)
        for example in drawn.two_of(kinds[number % len(kinds)], rng)
    ]


def tower_states(bundle: Bundle, pictures: list[np.ndarray]) -> Tensor:
    """(B, 1+P, L, D) float32: the hidden states that the projector takes, class token first."""
    weight = bundle.model.lm_head.weight
    layers = cast("list[int]", bundle.model.config.vision_feature_layer)
    with torch.inference_mode():
        pixels = as_pixels(pictures).to(weight.device, weight.dtype)
        states = bundle.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return torch.stack([states[layer] for layer in layers], dim=2).float().clone()


#: At the class token this much lies under what is said of a face: more than any opinion, so that none is cut off.
FLOOR = 6.0
#: How far the patches lie below it, so that they say nothing of the face as a whole.
GATE = 50.0
#: How loud an opinion of one is, beside the distance of the two answers' embeddings, and of technique's.
LOUD = 0.8


def begin_projector(bundle: Bundle, heads: Heads, pictures: list[np.ndarray]) -> None:
    """Start the projector with what the heads see, said in the words of the answers.

    The class token begins as "Yes" or "No", as strongly as the verdict head means it, and as the words of the
    techniques: to copy a word that stands before is what a language model does by itself. Beside these stand where
    pixels look foreign, what the region head looks at, and the directions in which patches vary most.

    The first layer reads raw hidden states and the heads normalised ones: each layer's usual spread stands in for its
    norm.
    """
    states = tower_states(bundle, pictures)  # (N, 1+P, L, D)
    spread, middle = states.std(dim=-1).mean(dim=(0, 1)), states.mean(dim=(0, 1))  # (L,), (L, D)
    width = states.shape[-1]
    even = ((states - middle) / spread[:, None]).flatten(2)  # (N, 1+P, L·D)
    sample = even[:, 1::3].reshape(-1, even.shape[-1])
    projector = bundle.model.model.multi_modal_projector
    first, second = projector.linear_1.weight, projector.linear_2.weight
    table = cast("Tensor", bundle.model.get_input_embeddings().weight).detach().float()

    opinions, offsets = _opinions(heads, states, even)  # (K, L·D), (K,)
    gate, shut = _class_gate(even)  # (L·D,), ()
    words = _words(bundle, table)  # (K, E)
    grid = heads.grid.weight.detach()
    room = first.shape[0] - len(opinions) - 3
    fixed = torch.cat([opinions + gate, gate[None], grid, -grid, heads.narrow.weight.detach()[: room // 2]])
    _, values, axes = torch.pca_lowrank(sample, q=first.shape[0] - len(fixed), center=False, niter=2)
    whole = torch.cat([fixed, axes.T * len(sample) ** 0.5 / values[:, None]])  # (H, L·D)
    bias = torch.zeros(len(whole))
    bias[: len(opinions)] = offsets + FLOOR + shut
    bias[len(opinions)] = FLOOR + shut
    turned = torch.linalg.qr(
        torch.randn(second.shape[0], second.shape[1], generator=torch.Generator().manual_seed(0))
    )[0]
    hidden = torch.nn.functional.gelu(sample @ whole.T + bias)
    loudness = hidden[:, len(opinions) + 1 :].square().mean().sqrt()
    scaled = whole / spread.repeat_interleave(width)
    with torch.no_grad():
        first.copy_(scaled)
        projector.linear_1.bias.copy_(bias - scaled @ middle.flatten())
        second.copy_(turned * table.std() / loudness)
        second[:, : len(opinions)] = words.T
        second[:, len(opinions)] = -words.sum(dim=0)
        projector.linear_2.bias.zero_()


def _opinions(heads: Heads, states: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
    """Directions and offsets by which the class token's normalised states give the verdict and every technique."""
    with torch.inference_mode():
        seen = heads(states)
    wanted = torch.cat(
        [seen.verdict[:, None], seen.technique - seen.technique.mean(dim=1, keepdim=True)], dim=1
    )
    wanted = wanted.clone()  # (N, K)
    technique = heads.technique.weight.detach() - heads.technique.weight.detach().mean(dim=0)
    directions = torch.cat([(heads.verdict / heads.spread)[None].detach(), technique])
    told = even[:, 0] @ directions.T  # (N, K)
    slopes = ((told - told.mean(dim=0)) * (wanted - wanted.mean(dim=0))).sum(dim=0)
    slopes = slopes / (told - told.mean(dim=0)).square().sum(dim=0).clamp(min=1e-9)
    return directions * slopes[:, None], wanted.mean(dim=0) - slopes * told.mean(dim=0)


def _class_gate(even: Tensor) -> tuple[Tensor, Tensor]:
    """A direction and an offset that are 0 at the class token and −GATE at patches, by ridge regression."""
    tokens = torch.cat([even[:, 0], even[:, 1::5].reshape(-1, even.shape[-1])])
    wanted = torch.full((len(tokens),), -GATE)
    wanted[: len(even)] = 0.0
    weight = torch.ones(len(tokens))
    weight[: len(even)] = (len(tokens) - len(even)) / len(even)
    middle = (tokens * weight[:, None]).sum(dim=0) / weight.sum()
    target = (wanted * weight).sum() / weight.sum()
    rooted = weight.sqrt()[:, None]
    x, y = (tokens - middle) * rooted, (wanted - target)[:, None] * rooted
    kernel = x @ x.T
    ridge = 1e-3 * kernel.diagonal().mean()
    found = (x.T @ torch.linalg.solve(kernel + ridge * torch.eye(len(x)), y))[:, 0]
    return found, target - found @ middle


def _words(bundle: Bundle, table: Tensor) -> Tensor:
    """(K, E): towards "Yes" from "No", and towards each technique's words from all techniques'."""
    script = bundle.script
    verdict = table[script.yes] - table[script.no]
    techniques = torch.stack([table[list(script.options[each])].mean(dim=0) for each in Technique])
    away = torch.nn.functional.normalize(techniques - techniques.mean(dim=0), dim=-1)
    return LOUD * torch.cat([verdict[None], away * verdict.norm() / 2])


def write_small(work: Path, out: Path, heads: Heads | None, platt: Platt, plan: SmallPlan) -> BundleSpec:
    """What was trained, at half precision: the adapter (LoRA, projector, tuned norms), the heads, the calibration."""
    assert heads is not None
    shutil.rmtree(out / "adapter", ignore_errors=True)
    (out / "adapter").mkdir(parents=True)
    trained = work / "speech" / "adapter"
    halves = {name: value.half() for name, value in load_file(trained / "adapter_model.safetensors").items()}
    save_file(halves, out / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((trained / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    (out / "adapter" / "adapter_config.json").write_text(
        json.dumps(config, indent=1) + "\n", encoding="utf-8"
    )
    save_file(
        {name: value.half().contiguous() for name, value in heads.state_dict().items()}, out / HEADS_FILE
    )
    for file in out.rglob("*.safetensors"):
        file.chmod(0o644)
    save_platt(platt, out / CALIBRATION_FILE)
    (out / "LICENSE").write_text(LICENCE_TEXT, encoding="utf-8")
    card = BundleCard(
        name="small",
        version=plan.version,
        description=(
            "DFA-GPT on CLIP ViT-B/16 and SmolLM2-135M: tuned LayerNorms, a projector and LoRA by this project. "
            "An opinion, weak on makers it never saw; a person must look."
        ),
        licence="Research only: see the bundle's LICENSE.",
        training_data="see MODEL_CARD.md",
    )
    spec = replace(
        packaged_base(),
        card=card,
        folder=out,
        adapter="adapter",
        calibration=CALIBRATION_FILE,
        heads=HEADS_FILE,
    )
    return write_card(spec)


def through_words(spec: BundleSpec, platt: Platt, pool: Pool, *, twos: int = 100) -> Platt:
    """The calibration of what the tower thinks, for the margin with which the language model repeats it.

    Fitted through the engine that serves, on faces of the split for calibration, by least squares.
    """
    device = torch.device("cpu")
    bundle = load_bundle(spec, device=device, dtype=precision(spec, device))
    drawn, rng = Examples(pool, "calibration"), np.random.default_rng(31)
    judged = judge(bundle, [each for _ in range(twos) for each in drawn.two(rng)], describe=False)
    slope, offset = np.polyfit([j.margin for j in judged], [j.opinion or 0.0 for j in judged], 1)
    return replace(platt, a=platt.a * float(slope), b=platt.b + platt.a * float(offset))


# --- judging


def report_small(spec: BundleSpec, pool: Pool, plan: SmallPlan) -> Report:
    """Judge the bundle on the test split: a deepfake from the score on at which the detector says so."""
    device = torch.device("cpu")
    bundle = load_bundle(spec, device=device, dtype=precision(spec, device))
    examples = list(
        examples_to_judge(pool, split="test", lab=plan.report_lab, pooled=plan.report_pooled, seed=2)
    )
    platt = bundle.calibration
    threshold = 0.0 if platt is None else platt.margin(zone_of(Policy(), platt)[1])
    judged = judge(bundle, examples, threshold=threshold)
    return report(
        judged, lab=plan.report_lab, threshold=threshold, seconds=seconds_per_face(bundle, examples[:8])
    )


def write_model_card(
    spec: BundleSpec, result: Report, work: Path, pool: Pool, plan: SmallPlan, *, now: datetime.datetime
) -> None:
    counts = Counter((row.source, row.label) for row in pool.rows)
    names = sorted({(row.source, row.terms) for row in pool.rows})
    sources = "\n".join(
        f"| {source} | {counts[source, Label.BONA_FIDE]:,} | {counts[source, Label.DEEPFAKE]:,} | {terms} |"
        for source, terms in names
    )
    faces = {
        name: 2 * each.twos * each.steps for name, each in (("without", plan.without), ("sight", plan.sight))
    }
    text = CARD_TEXT.format(
        version=spec.card.version,
        date=now.date().isoformat(),
        strangers=(work / "strangers.md").read_text(encoding="utf-8"),
        without=f"{faces['without']:,}",
        sight=f"{faces['sight']:,}",
        lora=json.dumps(asdict(plan.lora)),
        twos=f"{plan.twos:,}",
        sources=sources,
        scores=as_text(result),
    )
    (spec.folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")


LICENCE_TEXT = """\
What lies in this folder was trained on pictures of people whose terms do not allow more than research. It is offered
for research and for trying out this project only: not for production use, not for sale, and not for any decision about
a person. The code of the project is under Apache-2.0; this folder is not.

It stands on two models that are not contained here: the image tower of openai/clip-vit-base-patch16 (MIT) and
SmolLM2-135M-Instruct (Apache-2.0). The sources of the training pictures and their terms are in MODEL_CARD.md; none of
the pictures is contained here.

There is no warranty of any kind.
"""

CARD_TEXT = """\
# small {version}

DFA-GPT in the LLaVA layout: the image tower of CLIP ViT-B/16 with tuned LayerNorms, a projector that reads four of its
layers, and SmolLM2-135M-Instruct with LoRA (rank 16). It answers DF-D, DF-C, AD and FC about one face; heads beside the
language model say where pixels look foreign. Trained {date} on two CPU cores that others used at the same time.

**Use it to try the system, and as a baseline. Never use it to decide about a person.** Its artifact lines say where to
look and prove nothing. Skin tones, ages and cameras are as uneven as in the sources.

## On sources that it had not seen

The tower was first trained without these sources ({without} faces seen), then judged on them; nothing else here says
what to expect of tomorrow's forgeries. They took no part in the calibration either: probabilities, and the scores
between which nothing is decided, are fitted on the other sources, each judged by a verdict that was fitted without it.
Afterwards the tower was trained on with every source ({sight} faces more): these are figures of its younger self.

{strangers}
The last column shows what numbers that look at no face would reach on the same pictures: .5 is what one wants.

## On test splits of sources that it was trained on

Through the served engine, each picture through a random chain of shift, light, blur, resizing, noise, JPEG, WebP and
PNG. Intervals are 95 % bootstrap by pair. Splits are by pair, or by file where the source tells of no pair.

{scores}

## Data and terms

| source | bona fide | forged | terms |
|---|---|---|---|
{sources}

Every picture passed one normalisation, whatever its label, and every two of bona fide and forged was brought to one
sharpness and light. Forgeries of the lab are made from the bona fide faces above. DFA-Instruct: {twos} twos of such
faces with conversations worded from exact facts. LoRA: {lora}.
"""
