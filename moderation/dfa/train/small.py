"""From labelled folders to the bundle `small`: base, pool, sight, speech, calibration, report, card. One run.

Each stage leaves its work in the run's folder and is not repeated. Within a stage, training goes on at its last
checkpoint. The tower is first trained without some sources and judged on them, because only that tells what to expect
of unseen sources. Probabilities are fitted on verdicts that each source took no part in.
"""

import datetime
import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
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
    layers_read,
    load_bundle,
    packaged_base,
    write_card,
)
from moderation.dfa.gpt.calibration import Platt
from moderation.dfa.gpt.detector import precision, zone_of
from moderation.dfa.gpt.grounding.intent_head import save_intents
from moderation.dfa.gpt.heads import REGIONS, Heads
from moderation.dfa.gpt.policy import Policy
from moderation.dfa.gpt.projector import mean_of_squares
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.gpt.script import Tokens
from moderation.dfa.instruct.builder import build
from moderation.dfa.instruct.examples import Examples
from moderation.dfa.instruct.forgery.latent import fetch_decoder, latent_redrawer
from moderation.dfa.instruct.pool import Pool, pool_of
from moderation.dfa.instruct.sources import Table
from moderation.dfa.train.calibrate import write_calibration
from moderation.dfa.train.findings import Found, described, fit_findings, left_out_findings, patches_of
from moderation.dfa.train.intents import Read, read_questions
from moderation.dfa.train.lora import train_lora
from moderation.dfa.train.plan import LoraPlan
from moderation.dfa.train.probe import Stored, fit_probes, held_out, served_features, stored_features
from moderation.dfa.train.report import Report, as_text, examples_to_judge, judge, report, seconds_per_face
from moderation.dfa.train.sight import READ, Sight, SightPlan, as_pixels, train_sight
from moderation.dfa.train.sources_out import (
    as_json,
    as_left_out_table,
    as_table,
    calibrated,
    calibration_of,
    each_left_out,
    honesty,
    left_out,
    look_at,
    strangers,
)
from moderation.errors import SetupProblem

#: Left out first: sources of every technique that the pool has real forgeries of, and a source of bona fide faces.
STRANGERS = ("openforensics_crops", "stargan_celeba", "sfhq_t2i_470", "ifg_gan_faces", "gsa18f_team")
#: Side of the squares of patches that its language model reads as one visual token.
POOL = 2
HEADS_FILE, INTENTS_FILE = "heads.safetensors", "intents.safetensors"


@dataclass(frozen=True)
class SmallPlan:
    """How much of everything."""

    #: Twos of DFA-Instruct. Everything learns from them.
    twos: int = 10860
    #: Without `STRANGERS`, then on with everything.
    without: SightPlan = field(
        default_factory=lambda: SightPlan(steps=900, warmup=30, without=STRANGERS, layers=READ)
    )
    sight: SightPlan = field(
        default_factory=lambda: SightPlan(steps=1350, seed=1, rate=3e-4, warmup=30, layers=READ)
    )
    #: Faces that the verdict is fitted on.
    faces: int = 2 * 10860
    #: Forged faces that the findings are fitted on, at most: each takes 1.2 MB of memory.
    described: int = 1600
    #: The paper's recipe at this model's size.
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
    data: Path,
    work: Path,
    out: Path,
    plan: SmallPlan,
    sources: Table,
    *,
    now: datetime.datetime,
    say: Callable[[str], None],
) -> tuple[BundleSpec, Report]:
    """Run all stages. `work` keeps the pool and the checkpoints, `out` becomes the bundle."""
    if not (cache_folder() / BASE_DIGEST).is_dir():
        say("Fetching the base …")
        assemble_base(cache_folder())
    base = base_of(BASE_DIGEST)
    if latent_redrawer() is None and not fetch_decoder():
        say("The decoder of a latent diffusion model cannot be fetched: the lab draws with its own alone.")
    building = partial(say, "Bringing every picture to the pool's normal form …")
    pool = pool_of(data, work / "pool", sources, processes=2, say=building)
    check_strangers(pool, plan)
    say("Building DFA-Instruct …")
    instruct = work / "instruct"
    build(pool, instruct, load_prompts(2), split="train", twos=plan.twos, seed=plan.sight.seed)
    say(f"Teaching the tower to see without {', '.join(plan.without.without)} …")
    stranger = train_sight(base, instruct, work / "sight-without", plan.without)
    say("Teaching it everything …")
    sight = train_sight(base, instruct, work / "sight", plan.sight, after=work / "sight-without")
    say("Fitting what reads the tower …")
    for each in (stranger, sight):
        each.look_closer()
    seen = stored_features(stranger, instruct, plan.faces // 2, without=plan.without.without)
    judge_strangers(stranger, seen, pool, work, plan, today=now.date())
    found = find_wrong(sight, instruct, most=plan.described)
    seen = stored_features(sight, instruct, plan.faces // 2)
    fit_probes(sight.heads, seen)
    judged = held_out(seen)
    served = served_features(sight, pool, left_out(pool, {row.source for row in pool.rows}))
    table = as_left_out_table(each_left_out(seen, judged, served))
    (work / "left-out.md").write_text(table, encoding="utf-8")
    platt = calibration_of(seen, judged, today=now.date())
    say("Teaching the model to speak …")
    bundle = sighted(base_bundle(), sight, pool)
    train_lora(bundle, instruct / "conversations.json", work / "speech", plan.lora)
    spec = write_small(work, out, bundle.heads, platt, plan)
    say("Teaching it to read questions …")
    spec, read = write_intents(spec, say)
    spec = write_calibration(spec, through_words(spec, platt, pool))
    say("Judging it …")
    result = report_small(spec, pool, plan)
    write_model_card(spec, result, (found, read), work, pool, plan, now=now)
    return spec, result


def check_strangers(pool: Pool, plan: SmallPlan) -> None:
    """Raise SetupProblem when the first tower could not be judged: this would only show after hours of training."""
    names = plan.without.without
    if {row.label for row in left_out(pool, names)} != {Label.BONA_FIDE, Label.DEEPFAKE}:
        raise SetupProblem(
            f"The pool needs bona fide and forged faces of {', '.join(names)}, because `dfa train small` is judged on "
            "them first: add such a folder, or train the parts with `dfa train sight` and `dfa train lora`."
        )


def base_spec() -> BundleSpec:
    """The packaged base, with its patches pooled and the layers that are read."""
    spec = packaged_base()
    return replace(spec, image=replace(spec.image, pool=POOL, layers=READ))


def base_bundle() -> Bundle:
    """The base, ready to be trained."""
    return _loaded(base_spec(), "cuda" if torch.cuda.is_available() else "cpu")


def _loaded(spec: BundleSpec, device: str = "cpu") -> Bundle:
    """The bundle in the precision that this device is fastest in."""
    place = torch.device(device)
    return load_bundle(spec, device=place, dtype=precision(spec, place))


def judge_strangers(
    sight: Sight, stored: Stored, pool: Pool, work: Path, plan: SmallPlan, *, today: datetime.date
) -> None:
    """Judge the first tower on the sources it never saw, and write the figures down.

    Verdict and calibration are fitted on the other sources. The strangers take no part in either, so their figures say
    how far both hold.
    """
    platt = calibrated(held_out(stored), stored.deepfake, stored.origin, version=today.isoformat())
    fit_probes(sight.heads, stored)
    looked = look_at(sight, pool, left_out(pool, plan.without.without))
    found, kept = strangers(looked, platt), honesty(looked, platt)
    told = {"strangers": as_json(found), "honesty": {name: vars(value) for name, value in kept.items()}}
    (work / "strangers.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    lines = "".join(f"- {name}: {value}\n" for name, value in kept.items())
    (work / "strangers.md").write_text(f"{as_table(found)}\n{lines}", encoding="utf-8")


# --- from sight to speech


def sighted(bundle: Bundle, sight: Sight, pool: Pool) -> Bundle:
    """The base with the trained tower, its heads, and a projector that starts from what the heads look at."""
    weights = {name: value for name, value in sight.tower.state_dict().items() if "norm" in name}
    missing = bundle.model.model.vision_tower.load_state_dict(weights, strict=False).unexpected_keys
    assert not missing, missing
    heads = sight.heads.float().eval()
    begin_projector(bundle, heads, some_faces(pool))
    return replace(bundle, heads=heads)


def some_faces(pool: Pool, count: int = 512, *, seed: int = 0) -> list[np.ndarray]:
    """Faces of the training split, equally many of every kind of two."""
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
    layers = layers_read(bundle.model)
    with torch.inference_mode():
        pixels = as_pixels(pictures).to(weight.device, weight.dtype)
        states = bundle.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return torch.stack([states[layer] for layer in layers], dim=2).float().clone()


#: Added to every opinion at the class token. It is larger than any opinion, so that GELU cuts none off.
FLOOR = 6.0
#: Subtracted at the patches, so that they carry no opinion of the face as a whole.
GATE = 50.0
#: Size of an opinion of one, relative to the distance between the embeddings of the two answers.
LOUD = 0.8
#: Spread of an opinion about a region over faces, and its ridge, relative to the mean square of class tokens.
REGIONAL, RIDGE = 1.5, 0.05
#: Faces whose patches the projector's other rows are fitted on. Opinions are fitted on all.
LOOKED_AT = 96


def begin_projector(bundle: Bundle, heads: Heads, pictures: list[np.ndarray]) -> None:
    """Start the projector so that the class token says what the heads see, in the words of the answers.

    The class token starts as "Yes" or "No", as strongly as the verdict head means it, plus the words of the techniques
    and of the regions. A language model copies a word from its context without being taught to. The other rows carry
    where pixels look foreign, and the directions in which patches vary most.

    The first layer reads raw hidden states, and the heads read normalised ones. Each layer's mean spread stands in for
    its norm.
    """
    states = _as_read(tower_states(bundle, pictures[:LOOKED_AT]), bundle.spec.image.pool)  # (N, 1+P, L, D)
    spread, middle = states.std(dim=-1).mean(dim=(0, 1)), states.mean(dim=(0, 1))  # (L,), (L, D)
    width = states.shape[-1]
    even = ((states - middle) / spread[:, None]).flatten(2)  # (N, 1+P, L·D)
    sample = even[:, 1::3].reshape(-1, even.shape[-1])
    projector = bundle.model.model.multi_modal_projector
    first, second = projector.linear_1.weight, projector.linear_2.weight
    table = cast("Tensor", bundle.model.get_input_embeddings().weight).detach().float()

    tokens, wanted = _class_tokens(bundle, heads, pictures)
    opinions, offsets = _opinions(heads, ((tokens - middle) / spread[:, None]).flatten(1), wanted)
    gate, shut = _class_gate(even)  # (L·D,), ()
    words = _words(bundle, table)  # (K, E)
    grid = heads.grid.weight.detach()
    fixed = torch.cat([opinions + gate, gate[None], grid, -grid])
    _, values, axes = torch.pca_lowrank(sample, q=first.shape[0] - len(fixed), center=False, niter=2)
    whole = torch.cat([fixed, axes.T * len(sample) ** 0.5 / values[:, None]])  # (H, L·D)
    bias = torch.zeros(len(whole))
    bias[: len(opinions)] = offsets + FLOOR + shut
    bias[len(opinions)] = FLOOR + shut
    turned, _ = torch.linalg.qr(torch.randn(second.shape, generator=torch.Generator().manual_seed(0)))
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


def _as_read(states: Tensor, pool: int) -> Tensor:
    """The states (N, 1+P, L, D) that the projector reads: the class token, and the mean of each square of patches."""
    patches = mean_of_squares(states[:, 1:].flatten(2), pool).unflatten(2, states.shape[2:])
    return torch.cat([states[:, :1], patches], dim=1)


def _class_tokens(bundle: Bundle, heads: Heads, pictures: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Class tokens (N, L, D), and what the heads read from whole pictures: verdict, techniques, regions (N, K)."""
    tokens, opinions = list[Tensor](), list[Tensor]()
    for start in range(0, len(pictures), LOOKED_AT):
        states = tower_states(bundle, pictures[start : start + LOOKED_AT])
        with torch.inference_mode():
            seen = heads(states)
        technique = seen.technique - seen.technique.mean(dim=1, keepdim=True)
        tokens.append(states[:, 0])
        opinions.append(torch.cat([seen.verdict[:, None], technique, seen.regions], dim=1))
    return torch.cat(tokens), torch.cat(opinions).clone()


def _opinions(heads: Heads, tokens: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Directions (K, L·D) and offsets (K,) that turn normalised class tokens (N, L·D) into the heads' opinions (N, K).

    The heads read verdict and technique from the class token, and only its scale is fitted. They read regions from the
    patches: what the class token tells of them is found by ridge regression, and brought to one spread.
    """
    centre = tokens.mean(dim=0)
    even = tokens - centre
    technique = heads.technique.weight.detach()[:, : len(heads.middle)]
    technique = technique - technique.mean(dim=0)
    exact = torch.cat([(heads.verdict / heads.spread)[None].detach(), technique])
    regions = wanted[:, len(exact) :] - wanted[:, len(exact) :].mean(dim=0)
    kernel = even @ even.T
    ridge = RIDGE * kernel.diagonal().mean() * torch.eye(len(even))
    found = (even.T @ torch.linalg.solve(kernel + ridge, regions)).T  # (R, L·D)
    found = found * REGIONAL / (even @ found.T).std(dim=0)[:, None].clamp(min=1e-6)
    told = even @ exact.T
    seen = wanted[:, : len(exact)]
    slopes = (told * (seen - seen.mean(dim=0))).sum(dim=0) / told.square().sum(dim=0).clamp(min=1e-9)
    directions = torch.cat([exact * slopes[:, None], found])
    level = torch.cat([seen.mean(dim=0), torch.zeros(len(found))])
    return directions, level - directions @ centre


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
    """(K, E): towards "Yes" from "No", and towards the words of each technique and region from those of all."""
    script, headings = bundle.script, bundle.prompts.headings
    verdict = table[script.yes] - table[script.no]
    loud = LOUD * verdict.norm() / 2
    techniques = [script.options[each] for each in Technique]
    regions = [bundle.codec.encode(headings[each][0]) for each in REGIONS]
    return torch.cat([LOUD * verdict[None], loud * _apart(techniques, table), loud * _apart(regions, table)])


def _apart(words: Sequence[Tokens], table: Tensor) -> Tensor:
    """(W, E) of unit length: from the mean embedding of all words towards each one's."""
    means = torch.stack([table[list(each)].mean(dim=0) for each in words])
    return torch.nn.functional.normalize(means - means.mean(dim=0), dim=-1)


def write_small(work: Path, out: Path, heads: Heads | None, platt: Platt, plan: SmallPlan) -> BundleSpec:
    """Write what was trained, at half precision: the adapter (LoRA, projector, tuned norms), heads and calibration."""
    assert heads is not None
    shutil.rmtree(out / "adapter", ignore_errors=True)
    (out / "adapter").mkdir(parents=True)
    trained = work / "speech" / "adapter"
    halves = {name: value.half() for name, value in load_file(trained / "adapter_model.safetensors").items()}
    save_file(halves, out / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    config = json.loads((trained / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = None
    written = json.dumps(config, indent=1) + "\n"
    (out / "adapter" / "adapter_config.json").write_text(written, encoding="utf-8")
    half_heads = {name: value.half().contiguous() for name, value in heads.state_dict().items()}
    save_file(half_heads, out / HEADS_FILE)
    for file in out.rglob("*.safetensors"):
        file.chmod(0o644)
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
    spec = replace(base_spec(), card=card, folder=out, adapter="adapter", heads=HEADS_FILE)
    return write_calibration(spec, platt)


def find_wrong(sight: Sight, instruct: Path, *, most: int) -> Found:
    """Fit what the heads find wrong on faces of DFA-Instruct. Return how well it hits on faces left out."""
    forged = list(itertools.islice(described(instruct), most))
    patches = patches_of(forged, sight)
    found = left_out_findings(sight.heads, forged, patches)
    fit_findings(sight.heads, forged, patches)
    return found


def write_intents(spec: BundleSpec, say: Callable[[str], None]) -> tuple[BundleSpec, Read]:
    """Train what reads questions on this bundle's language model, and write it beside the other files.

    Also return how well it reads wordings that it did not learn from.
    """
    head, read = read_questions(_loaded(spec), say=say)
    save_intents(head, spec.folder / INTENTS_FILE)
    return write_card(replace(spec, intents=INTENTS_FILE)), read


def through_words(spec: BundleSpec, platt: Platt, pool: Pool, *, twos: int = 100) -> Platt:
    """Carry a calibration of the tower's logit over to the language model's margin.

    The line from margin to logit is fitted by least squares, through the serving engine, on the calibration split.
    """
    bundle = _loaded(spec)
    drawn, rng = Examples(pool, "calibration"), np.random.default_rng(31)
    judged = judge(bundle, [each for _ in range(twos) for each in drawn.two(rng)], describe=False)
    slope, offset = np.polyfit([j.margin for j in judged], [j.opinion or 0.0 for j in judged], 1)
    return replace(platt, a=platt.a * float(slope), b=platt.b + platt.a * float(offset))


# --- judging


def report_small(spec: BundleSpec, pool: Pool, plan: SmallPlan) -> Report:
    """Judge the bundle on the test split, at the threshold that the detector uses."""
    bundle, lab = _loaded(spec), plan.report_lab
    examples = list(examples_to_judge(pool, split="test", lab=lab, pooled=plan.report_pooled, seed=2))
    platt = bundle.calibration
    threshold = 0.0 if platt is None else platt.margin(zone_of(Policy(), platt)[1])
    judged = judge(bundle, examples, threshold=threshold)
    seconds = seconds_per_face(bundle, examples[:8])
    return report(judged, lab=lab, threshold=threshold, seconds=seconds, table=pool.table)


def write_model_card(
    spec: BundleSpec,
    result: Report,
    words: tuple[Found, Read],
    work: Path,
    pool: Pool,
    plan: SmallPlan,
    *,
    now: datetime.datetime,
) -> None:
    """Write the card. `words` are the measures of findings and of reading questions on what was left out."""
    counts = Counter((row.source, row.label) for row in pool.rows)
    names = sorted({(row.source, row.terms) for row in pool.rows})
    sources = "\n".join(
        f"| {source} | {counts[source, Label.BONA_FIDE]:,} | {counts[source, Label.DEEPFAKE]:,} | {terms} |"
        for source, terms in names
    )
    text = CARD_TEXT.format(
        version=spec.card.version,
        date=now.date().isoformat(),
        strangers=(work / "strangers.md").read_text(encoding="utf-8"),
        left_out=(work / "left-out.md").read_text(encoding="utf-8"),
        without=f"{2 * plan.without.twos * plan.without.steps:,}",
        sight=f"{2 * plan.sight.twos * plan.sight.steps:,}",
        lora=json.dumps(asdict(plan.lora)),
        twos=f"{plan.twos:,}",
        sources=sources,
        scores=as_text(result),
        words=WORDS_TEXT.format(**vars(words[0]), **vars(words[1])),
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

WORDS_TEXT = """\
## What it finds wrong, and what it is asked

What is wrong with a deepfake is fitted on forgeries with known facts. On {faces} such faces of persons that were left
out, with their technique given: region F1 {region_f1:.3f}, where the best answer without looking has {blind_f1:.3f};
the kind of change is right for {kinds:.3f} of the changed regions; estimated and true strength correlate by
{strengths:.2f}. Of {questions:,} questions in wordings that it did not learn from, the family of {families:.3f} and the
intent of {intents:.3f} is read rightly.
"""

CARD_TEXT = """\
# small {version}

DFA-GPT in the LLaVA layout: the image tower of CLIP ViT-B/16 with tuned LayerNorms, a projector that reads four of its
layers, pooled two by two patches, and SmolLM2-135M-Instruct with LoRA (rank 16). It answers DF-D, DF-C, AD and FC about
one face. The margin of the verdict is the language model's, plus what heads read from the patches and from a close-up
of the face; the language model also reads questions. Heads decide the technique too, say what is wrong with which
region, and where pixels look foreign. Trained {date} on two CPU cores that others used at the same time.

**Use it to try the system, and as a baseline. Never use it to decide about a person.** Its artifact lines say where to
look and prove nothing. Skin tones, ages and cameras are as uneven as in the sources.

## On sources that it had not seen

The tower was first trained without these sources ({without} faces seen), then judged on them; nothing else here says
what to expect of tomorrow's forgeries. They took no part in the calibration either: probabilities, and the scores
between which nothing is decided, are fitted on the other sources, each judged by a verdict that was fitted without it.
Afterwards the tower was trained on with every source ({sight} faces more): these are figures of its younger self.

{strangers}
The last column shows what numbers that look at no face would reach on the same pictures: .5 is what one wants.

## On every source, left out of the verdict

The tower had seen these; the verdict that reads it was fitted without the source, or for the lab without what was done
to the face. Faces are drawn as in training, degraded and each two alike, or served: cropped as the worker crops them.
The last column is a verdict that knows sharpness, brightness, contrast and bytes alone, fitted with the source: .5 is
what one wants, and what it has beyond that the tower might have learnt too.

{left_out}
{words}
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
