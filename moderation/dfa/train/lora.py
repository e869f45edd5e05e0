"""The paper's recipe on any LLaVA-layout base: vision encoder frozen, projector trained, LoRA on the language model.

`plan.py` has what may be chosen. It ends in a bundle: the base by reference or by copy, and the adapter.

A tower that learnt to see before (`sight.py`) brings its tuned norms along, and its heads teach the verdict: what the
language model says is then what the tower sees, on pictures of any source.

One process or many, on CPUs or GPUs, with one command: `accelerate launch -m moderation.cli.main dfa train lora …`.

B sequences, T tokens, P visual tokens, V vocabulary, D width.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from transformers import LlavaForConditionalGeneration

from moderation.dfa.gpt.base import PACKAGED
from moderation.dfa.gpt.bundle import (
    Bundle,
    BundleCard,
    BundleSpec,
    ImageSpec,
    load_bundle,
    resolve_bundle,
    write_card,
)
from moderation.dfa.gpt.engine.engine import TowerReader, visual_tokens
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.gpt.script import Codec
from moderation.dfa.instruct.builder import read_llava, read_picture
from moderation.dfa.train.plan import AdapterPlan, LoraPlan
from moderation.dfa.train.run import log, state_of, state_tensors, warmed_cosine
from moderation.dfa.train.sequences import Padded, Tokenised, pad, tokenise
from moderation.dfa.train.sight import NORMS, standardised
from moderation.errors import SetupProblem

#: The language model's linears alone. A bare list of names would also hit CLIP's q_proj, k_proj and v_proj.
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
PROJECTOR = "multi_modal_projector"


@dataclass(frozen=True)
class Told:
    """A picture and its conversation, in tokens."""

    picture: Path
    sequence: Tokenised


def adapted(model: LlavaForConditionalGeneration, plan: LoraPlan, *, norms: Sequence[str] = ()) -> PeftModel:
    """The base with fresh LoRA matrices and a projector that learns; everything else stands still.

    `norms` names parts of the tower that were tuned before: the adapter carries them as they are.
    """
    config = LoraConfig(
        r=plan.rank,
        lora_alpha=plan.alpha,
        lora_dropout=plan.dropout,
        target_modules=TARGETS,
        modules_to_save=[PROJECTOR, *norms],
        task_type="CAUSAL_LM",
    )
    model_with = cast("PeftModel", get_peft_model(cast("Any", model), config))
    for name, weight in model_with.named_parameters():
        if "vision_tower" in name:
            weight.requires_grad = False
    # peft keeps the projector in the base's type: in bfloat16 a step of 2e-5 is smaller than the grain of its weights.
    for weight in model_with.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model_with


def told(
    conversations: Path, prompts: PromptSet, codec: Codec, *, image_token: int, patches: int, longest: int
) -> tuple[list[Told], int]:
    """All conversations of a LLaVA file in tokens, and how many were too long."""
    everything = [
        Told(picture, tokenise(turns, prompts, codec, image_token=image_token, patches=patches))
        for picture, turns in read_llava(conversations)
        if turns
    ]
    kept = [entry for entry in everything if len(entry.sequence.tokens) <= longest]
    return kept, len(everything) - len(kept)


def train_lora(bundle: Bundle, conversations: Path, out: Path, plan: LoraPlan) -> list[float]:
    """Train an adapter for a loaded base and save it under `out`. Resumes from there. Returns the losses.

    `out/adapter` holds the adapter as peft saves it; `out/lora.jsonl` the metrics, one step a line. Raise SetupProblem
    when there is nothing to learn from, `out` was begun with another plan, or so many processes cannot share a batch.
    """
    accelerator = Accelerator()
    rank, world = accelerator.process_index, accelerator.num_processes
    if plan.batch % world:
        raise SetupProblem(f"A batch of {plan.batch} cannot be shared by {world} processes alike.")
    torch.manual_seed(plan.seed)
    base = bundle.model
    data, too_long = told(
        conversations,
        bundle.prompts,
        bundle.codec,
        image_token=base.config.image_token_id,
        patches=patches_of(base, bundle.spec.image),
        longest=plan.longest,
    )
    if not data:
        raise SetupProblem(f"{conversations} holds no conversation of at most {plan.longest} tokens.")
    out.mkdir(parents=True, exist_ok=True)
    model = adapted(base, plan, norms=() if bundle.heads is None else NORMS)
    if plan.checkpointing:
        base.gradient_checkpointing_enable()
        base.enable_input_require_grads()
    steps = planned_steps(len(data), plan)
    optimiser = torch.optim.AdamW(_groups(model, plan), weight_decay=0.0)
    start = _resume(model, optimiser, out, plan)
    reader = Reader(model, bundle)
    prepared, optimiser = accelerator.prepare(reader, optimiser)
    losses: list[float] = []
    model.train()
    cast("Any", base.model.vision_tower).eval()
    began = time.monotonic()
    if accelerator.is_main_process:
        log(out / "lora.jsonl", {"conversations": len(data), "too_long": too_long, "steps": steps})
    for step, parts in enumerate(_draws([len(entry.sequence.tokens) for entry in data], steps, plan)):
        if step < start:
            continue  # drawn again so that a resumed run sees what an unbroken one would
        factor = schedule(step, steps, plan)
        for group in optimiser.param_groups:
            group["lr"] = group["rate"] * factor
        torch.manual_seed(plan.seed + step + 7919 * rank)  # a resumed run drops what an unbroken one would
        words = verdicts = 0.0
        for rows in parts:
            whole = [data[row] for row in rows]
            total = sum(sum(entry.sequence.weights) for entry in whole) * len(parts) / world
            seen = max(sum(entry.sequence.verdict is not None for entry in whole), 1) * len(parts) / world
            said, judged = prepared(*reader.batch(whole[rank::world]))
            accelerator.backward(said / total + plan.taught * judged / seen)
            words, verdicts = words + said.item() / total, verdicts + judged.item() / seen
        accelerator.clip_grad_norm_([weight for weight in model.parameters() if weight.requires_grad], 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        shared = cast(
            "Tensor", accelerator.reduce(torch.tensor([words, verdicts], device=accelerator.device), "mean")
        )
        losses.append(shared[0].item())
        if accelerator.is_main_process:
            entry = {"loss": shared[0].item(), "taught": shared[1].item(), "factor": factor}
            seconds = round(time.monotonic() - began, 2)
            log(out / "lora.jsonl", {"step": step + 1, **entry, "seconds": seconds})
            if (step + 1) % plan.save_every == 0:
                _save(model, optimiser, out, step=step + 1, plan=plan)
    if accelerator.is_main_process:
        _save(model, optimiser, out, step=steps, plan=plan)
    accelerator.wait_for_everyone()
    return losses


class Reader(nn.Module):
    """An adapted model that reads conversations. It returns the losses of their words and of the taught verdicts."""

    def __init__(self, model: nn.Module, bundle: Bundle) -> None:
        super().__init__()
        self.model = model
        self.base, self.heads, self.image = bundle.model, bundle.heads, bundle.spec.image
        text = bundle.model.config.get_text_config()
        self.padding: int = text.pad_token_id if text.pad_token_id is not None else text.eos_token_id
        self.answers = (bundle.script.yes, bundle.script.no)
        self.tower = None if self.heads is None else TowerReader(self.base, self.heads)

    def batch(self, part: Sequence[Told]) -> tuple[Tensor, Padded]:
        """Pictures as the model's input, and the conversations about them."""
        pixels = normalised([entry.picture for entry in part], self.image)
        return pixels, pad([entry.sequence for entry in part], padding=self.padding)

    def forward(self, pixels: Tensor, padded: Padded) -> tuple[Tensor, Tensor]:
        """The sum of the answers' cross-entropies, by their weights, and that of the taught verdicts'.

        Logits are taken where an answer is predicted, and nowhere else: most of a step would go into the vocabulary.
        """
        weight = self.base.lm_head.weight
        tokens, mask = padded.tokens.to(weight.device), padded.mask.to(weight.device)
        with _mixed(weight), disable_input_dtype_casting(self.model):
            seen = visual_tokens(self.base, pixels.to(weight.device, weight.dtype))
            embedded: Tensor = cast("Any", self.base.get_input_embeddings())(tokens)
            places = (tokens == self.base.config.image_token_id)[..., None].expand_as(embedded)
            embedded = embedded.masked_scatter(places, seen.to(embedded.dtype))
            hidden = cast("Any", self.base.model.language_model)(
                inputs_embeds=embedded, attention_mask=mask, use_cache=False
            ).last_hidden_state
            charged = padded.weights[:, 1:].to(weight.device)
            if self.heads is not None and len(padded.rows):
                charged = charged.clone()
                charged[padded.rows, padded.verdicts] = 0  # learnt from the tower, below
            there = charged > 0
            logits = self.base.lm_head(hidden[:, :-1][there]).float()
            costs = F.cross_entropy(logits, tokens[:, 1:][there], reduction="none")
            said = (costs * charged[there]).sum()
            if self.heads is None or not len(padded.rows):
                return said, said.new_zeros(())
            verdicts = self.base.lm_head(hidden[padded.rows, padded.verdicts]).float()
        return said, self._taught(verdicts, padded)

    def _taught(self, logits: Tensor, padded: Padded) -> Tensor:
        """Cross-entropy of the two answer words against the tower's opinion, and the margin's distance from it."""
        assert self.tower is not None
        with torch.no_grad():
            opinion = self.tower.read().verdict[padded.rows]
        logs = logits.log_softmax(dim=-1)[:, list(self.answers)]  # (V, 2)
        wanted = torch.stack([opinion.sigmoid(), (-opinion).sigmoid()], dim=-1)
        margin = logits[:, self.answers[0]] - logits[:, self.answers[1]]
        return -(wanted * logs).sum() + 0.2 * F.smooth_l1_loss(margin, opinion, reduction="sum")


def patches_of(model: LlavaForConditionalGeneration, image: ImageSpec) -> int:
    """Visual tokens of one picture, asked of the model itself."""
    weight = model.lm_head.weight
    blank = torch.zeros((1, 3, image.size, image.size), dtype=weight.dtype, device=weight.device)
    with torch.inference_mode(), _mixed(weight):
        features = cast("Any", model.model.get_image_features(blank)).pooler_output
    return int(features[0].shape[0])


def _mixed(weight: Tensor) -> torch.autocast:
    """On a bfloat16 base everything is computed so, what learns in float32 too."""
    return torch.autocast(weight.device.type, torch.bfloat16, enabled=weight.dtype == torch.bfloat16)


def planned_steps(conversations: int, plan: LoraPlan) -> int:
    steps = math.ceil(conversations * plan.epochs / (plan.batch * plan.accumulate))
    return max(1, min(steps, plan.most_steps or steps))


def schedule(step: int, steps: int, plan: LoraPlan) -> float:
    """In [0, 1]: a linear warm-up, then a cosine to nothing."""
    return warmed_cosine(step, steps, warm=max(1, round(steps * plan.warmup)))


#: Batches among which conversations of like length are put together: less padding.
SORTED_TOGETHER = 8


def _draws(lengths: Sequence[int], steps: int, plan: LoraPlan) -> Iterator[list[list[int]]]:
    """Rows of every step, `accumulate` parts each: each epoch is shuffled anew, then ordered in stretches."""
    rng = np.random.default_rng(plan.seed)
    order: list[int] = []
    ready: list[list[int]] = []
    for _ in range(steps):
        while len(ready) < plan.accumulate:
            while len(order) < plan.batch * SORTED_TOGETHER:
                order += rng.permutation(len(lengths)).tolist()
            stretch = sorted(order[: plan.batch * SORTED_TOGETHER], key=lambda row: lengths[row])
            del order[: plan.batch * SORTED_TOGETHER]
            groups = [stretch[at : at + plan.batch] for at in range(0, len(stretch), plan.batch)]
            ready += [groups[index] for index in rng.permutation(len(groups))]
        yield ready[: plan.accumulate]
        del ready[: plan.accumulate]


def _groups(model: PeftModel, plan: LoraPlan) -> list[dict[str, Any]]:
    learnt = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    projector = [weight for name, weight in learnt if PROJECTOR in name]
    matrices = [weight for name, weight in learnt if PROJECTOR not in name]
    return [{"params": matrices, "rate": plan.rate}, {"params": projector, "rate": plan.projector_rate}]


def loss_of(model: nn.Module, part: Sequence[Told], bundle: Bundle) -> Tensor:
    """Mean cross-entropy of the answers' tokens, verdicts as they are labelled."""
    reader = Reader(model, replace(bundle, heads=None))
    pixels, padded = reader.batch(part)
    said, _ = reader(pixels, padded)
    return said / padded.weights[:, 1:].sum()


def normalised(pictures: Sequence[Path], image: ImageSpec) -> Tensor:
    """Stored pictures as the bundle's input (B, 3, S, S) float32."""
    stacked = np.stack([read_picture(picture, image.size) for picture in pictures])
    return standardised(torch.from_numpy(stacked), image.mean, image.std)


# --- checkpoints ---


def _save(
    model: PeftModel, optimiser: torch.optim.Optimizer, out: Path, *, step: int, plan: LoraPlan
) -> None:
    model.save_pretrained(str(out / "adapter"), safe_serialization=True)
    (out / "adapter" / "README.md").unlink(missing_ok=True)  # peft's empty card; ours lies beside the bundle
    tensors = {name: value.contiguous() for name, value in state_tensors(optimiser).items()}
    save_file(tensors, out / "optimiser.safetensors")
    (out / "lora.json").write_text(
        json.dumps({"step": step, "plan": asdict(plan)}, indent=1), encoding="utf-8"
    )


def _resume(model: PeftModel, optimiser: torch.optim.Optimizer, out: Path, plan: LoraPlan) -> int:
    """Steps already done; 0 without a checkpoint."""
    if not (out / "lora.json").is_file():
        return 0
    begun = json.loads((out / "lora.json").read_text(encoding="utf-8"))
    if begun["plan"] != asdict(plan):
        raise SetupProblem(
            f"{out} was begun with other settings (lora.json): give those, or name another folder."
        )
    step = int(begun["step"])
    set_peft_model_state_dict(model, load_file(out / "adapter" / "adapter_model.safetensors"))
    state = state_of(load_file(out / "optimiser.safetensors"))
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return step


def write_adapter_bundle(base: BundleSpec, out: Path, card: BundleCard, *, base_model: str) -> BundleSpec:
    """Make `out` a bundle. A base on the hub is named with its revision; one in a folder is copied beside."""
    for name in ("lora.json", "optimiser.safetensors"):
        (out / name).unlink(missing_ok=True)  # a bundle holds what a verdict depends on, and no more
    config_file = out / "adapter" / "adapter_config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_model if base.base else None
    config_file.write_text(json.dumps(config, indent=1), encoding="utf-8")
    if base.base is None:
        for file in base.folder.iterdir():
            if file.suffix in {".safetensors", ".json"} and file.name != "calibration.json":
                shutil.copy2(file, out / file.name)
    return write_card(replace(base, card=card, folder=out, adapter="adapter", calibration=None, digests={}))


def lora_bundle(plan: AdapterPlan, out: Path, *, device: str) -> tuple[list[float], BundleSpec]:
    """From a plan to a bundle with an adapter, a model card and the plan.

    Raise SetupProblem when `out` is a finished bundle, or the base has an adapter of its own already.
    """
    spec = resolve_bundle(plan.base)
    if spec.adapter is not None:
        base = PACKAGED if spec.packaged else spec.base or "a bundle without one"
        raise SetupProblem(
            f"{plan.base} has an adapter already, and a bundle holds one: train on its base ({base})."
        )
    if (out / "bundle.toml").is_file():
        raise SetupProblem(f"{out} is a finished bundle: name another folder.")
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    kind = ("cuda" if cuda else "cpu") if device == "auto" else device
    # bfloat16 where it is quick; on a CPU it is slower than float32.
    bundle = load_bundle(spec, device=torch.device(kind), dtype=torch.bfloat16 if cuda else torch.float32)
    losses = train_lora(bundle, plan.data, out, plan.recipe)
    card = BundleCard(
        name=plan.name,
        version="1",
        description=f"An adapter by the LLaVA-1.5 task recipe on {spec.card.name}. Not evaluated yet.",
        licence=plan.licence,
        training_data=plan.training_data,
    )
    (out / "plan.toml").write_text(plan.as_toml(), encoding="utf-8")
    written = write_adapter_bundle(spec, out, card, base_model=spec.base or "")
    (out / "MODEL_CARD.md").write_text(_card_text(card, plan.recipe, losses), encoding="utf-8")
    return losses, written


def _card_text(card: BundleCard, plan: LoraPlan, losses: Sequence[float]) -> str:
    settings = "\n".join(f"| {key} | {value} |" for key, value in asdict(plan).items())
    fell = f"Loss {losses[0]:.4f} at the first step, {losses[-1]:.4f} at the last." if losses else ""
    return (
        f"# {card.name} {card.version}\n\n{card.description}\n\n"
        f"**Licence**: {card.licence}\n\n**Training data**: {card.training_data}\n\n"
        f"{fell}\n\n| setting | value |\n|---|---|\n{settings}\n\n"
        "No score is claimed. Evaluate it, calibrate it on your own labelled cases, and never let it decide alone.\n"
    )
