"""The small language model learns to say what the tower sees: all four tasks, loss on answers only.

The tower stands still and each picture's tokens are kept for a while and talked about several times in new words, so
that most of a step goes into speech. The verdict is learnt from the label and from the tower's own head, which has
seen more pictures: text and verdict share one evidence.

B sequences, T tokens, P visual tokens, D tower width, V vocabulary.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  what everybody calls it
from transformers import LlavaForConditionalGeneration

from moderation.analysis import Technique
from moderation.dfa.gpt.bundle import ImageSpec
from moderation.dfa.gpt.layouts import LITE_MEAN, LITE_STD, Layout, train_tokenizer
from moderation.dfa.gpt.prompts import PromptSet
from moderation.dfa.gpt.script import Codec
from moderation.dfa.gpt.tower import Tower, TowerConfig
from moderation.dfa.instruct.examples import Example
from moderation.dfa.instruct.forgery.facts import Touch
from moderation.dfa.instruct.wording import dialogue, texts
from moderation.dfa.train.sequences import Padded, Tokenised, pad, tokenise
from moderation.dfa.train.sight import REGIONS, Heads, SightPlan, as_batch, example_batches

#: The small model: 7×7 visual tokens, four layers. Heads of 32 suit the engine's kernels.
MINI = Layout(
    name="mini",
    image=ImageSpec(224, LITE_MEAN, LITE_STD),
    vision=TowerConfig(hidden_size=192, image_size=224, patch_size=32),
    patches=49,
    vocabulary=1024,
    width=192,
    inner=512,
    layers=4,
    heads=6,
    tied=True,
)


@dataclass(frozen=True)
class SpeechPlan:
    """How the language model is trained. Recorded beside its weights."""

    #: Wall time, seconds. The learning rate falls to nothing over it.
    seconds: float = 900.0
    #: Conversations per step, and new pictures per step; the rest are drawn from those kept.
    conversations: int = 32
    twos: int = 4
    #: Pictures that are kept.
    kept: int = 6000
    rate: float = 2e-3
    weight_decay: float = 0.02
    #: Weight of the verdict beside the mean of all words.
    verdict_weight: float = 1.0
    #: Share of the tower's own opinion in the verdict that is taught.
    taught: float = 0.5
    #: What the tower gives less than this chance is not talked about: a fact that cannot be seen teaches to guess.
    least_seen: float = 0.2
    #: Standard deviation of noise on kept tokens, in units of their own: kept pictures must not be learnt by heart.
    noise: float = 0.1
    loaders: int = 1
    threads: int = 1
    seed: int = 0
    checkpoint: float = 300.0


@dataclass(frozen=True, eq=False)
class Seen:
    """One picture as the tower saw it, and what is known about it."""

    tokens: Tensor  # (P, D) float16
    opinion: float  # the verdict head's probability
    deepfake: bool
    technique: Technique | None
    facts: tuple[Touch, ...] | None  # of what was done, what the tower can see


def seen_facts(
    facts: tuple[Touch, ...] | None, chances: Sequence[float], *, least: float
) -> tuple[Touch, ...] | None:
    """The facts whose region the tower's head gives at least this chance; `chances` in the order of `REGIONS`."""
    if facts is None:
        return None
    seen = {region for region, chance in zip(REGIONS, chances, strict=True) if chance >= least}
    return tuple(touch for touch in facts if touch.region in seen)


def small_model(tower: Tower, prompts: PromptSet) -> tuple[LlavaForConditionalGeneration, Tokenizer]:
    """A language model of random weights around a trained tower, and the tokenizer of its few sentences."""
    tokenizer = train_tokenizer(texts(prompts), MINI.vocabulary)
    model = LlavaForConditionalGeneration(MINI.config(tokenizer.get_vocab_size()))
    model.model.vision_tower.load_state_dict(tower.state_dict())
    return model, tokenizer


class Talker:
    """The model, its optimiser and the pictures it keeps."""

    def __init__(
        self, model: LlavaForConditionalGeneration, tokenizer: Tokenizer, prompts: PromptSet, plan: SpeechPlan
    ) -> None:
        self.model, self.prompts, self.plan = model, prompts, plan
        self.codec = Codec(tokenizer, start=model.config.get_text_config().bos_token_id)
        self.image_token: int = model.config.image_token_id
        self.padding: int = model.config.get_text_config().pad_token_id
        self.tower = cast("Tower", model.model.vision_tower).eval()
        self.tower.requires_grad_(requires_grad=False)
        learnt = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.AdamW(
            learnt, lr=plan.rate, weight_decay=plan.weight_decay, betas=(0.9, 0.98)
        )
        self.rng = np.random.default_rng([plan.seed, 7])
        self.kept: list[Seen] = []
        opening = prompts.open(prompts.detection[0])
        self.yes, self.no = (
            self.codec.after(opening, prompts.reply(word))[0] for word in (prompts.yes, prompts.no)
        )
        self.steps = 0

    def look(self, examples: Sequence[Example], heads: Heads) -> None:
        """Keep new pictures; the oldest go."""
        with torch.inference_mode():
            batch = as_batch(examples)
            tokens = self.tower(batch.pixels).last_hidden_state
            verdicts, _, regions, _ = (output.sigmoid() for output in heads(tokens))
        for example, seen, opinion, chances in zip(examples, tokens, verdicts, regions, strict=True):
            facts = seen_facts(example.facts, chances.tolist(), least=self.plan.least_seen)
            self.kept.append(Seen(seen.half(), float(opinion), example.deepfake, example.technique, facts))
        del self.kept[: -self.plan.kept]

    def step(self, fresh: int, *, progress: float) -> dict[str, float]:
        """Talk about the newest pictures and some of those kept. `progress` in [0, 1] sets the learning rate."""
        newest = list(range(len(self.kept) - fresh, len(self.kept)))
        older = self.rng.integers(len(self.kept), size=max(self.plan.conversations - fresh, 0))
        talks = [(self.kept[index], self._conversation(self.kept[index])) for index in (*newest, *older)]
        talks.sort(key=lambda talk: len(talk[1].tokens))  # short with short: less padding
        factor = min(1.0, (self.steps + 1) / 30) * 0.5 * (1 + np.cos(np.pi * min(progress, 1.0)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate * factor
        self.model.model.language_model.train()
        self.optimiser.zero_grad(set_to_none=True)
        cut = round(len(talks) * 0.6)
        parts = [self._learn(part, whole=talks) for part in (talks[:cut], talks[cut:])]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.steps += 1
        words, verdict, right = (sum(values) for values in zip(*parts, strict=True))
        return {"words": round(words, 4), "verdict": round(verdict, 4), "right": round(right, 3)}

    def _learn(
        self, talks: Sequence[tuple[Seen, Tokenised]], *, whole: Sequence[tuple[Seen, Tokenised]]
    ) -> tuple[float, float, float]:
        """Backward for a part of a step. Its shares of the step's loss of words, of verdicts, and of right verdicts."""
        padded = pad([sequence for _, sequence in talks], padding=self.padding)
        visual = torch.stack([seen.tokens for seen, _ in talks]).float()  # (B, P, D)
        visual = visual + torch.randn_like(visual) * visual.std() * self.plan.noise
        logits = self._logits(visual, padded)
        all_words = sum(sum(sequence.weights) for _, sequence in whole)
        all_verdicts = max(sum(sequence.verdict is not None for _, sequence in whole), 1)
        words, verdict, right = self._losses(logits, padded, [seen for seen, _ in talks])
        words, verdict = words / all_words, verdict / all_verdicts
        (words + self.plan.verdict_weight * verdict).backward()
        return words.item(), verdict.item(), right / all_verdicts

    def _conversation(self, seen: Seen) -> Tokenised:
        turns = dialogue(
            deepfake=seen.deepfake,
            technique=seen.technique,
            facts=seen.facts,
            prompts=self.prompts,
            rng=self.rng,
        )
        return tokenise(turns, self.prompts, self.codec, image_token=self.image_token, patches=MINI.patches)

    def _logits(self, visual: Tensor, padded: Padded) -> Tensor:
        """(B, T, V) from visual tokens that were computed before."""
        embedded: Tensor = cast("Any", self.model.get_input_embeddings())(padded.tokens)
        projected: Tensor = cast("Any", self.model.model.multi_modal_projector)(visual)
        places = (padded.tokens == self.image_token)[..., None].expand_as(embedded)
        embedded = embedded.masked_scatter(places, projected.to(embedded.dtype))
        hidden = cast("Any", self.model.model.language_model)(
            inputs_embeds=embedded, attention_mask=padded.mask, use_cache=False
        ).last_hidden_state
        return self.model.lm_head(hidden)

    def _losses(self, logits: Tensor, padded: Padded, about: Sequence[Seen]) -> tuple[Tensor, Tensor, float]:
        """Sums: the words of answers, the verdict between its two words, and the number of right verdicts."""
        costs = F.cross_entropy(logits[:, :-1].transpose(1, 2), padded.tokens[:, 1:], reduction="none")
        words = (costs * padded.weights[:, 1:]).sum()
        there = logits[padded.rows, padded.verdicts]  # (B', V)
        margins = there[:, self.yes] - there[:, self.no]
        judged = [about[row] for row in padded.rows.tolist()]
        labels = torch.tensor([float(seen.deepfake) for seen in judged])
        opinions = torch.tensor([seen.opinion for seen in judged])
        targets = labels * (1 - self.plan.taught) + opinions * self.plan.taught
        verdict = F.binary_cross_entropy_with_logits(margins, targets, reduction="sum")
        right = ((margins > 0).float() == labels).float().sum().item()
        return words, verdict, right


def train_speech(
    model: LlavaForConditionalGeneration,
    tokenizer: Tokenizer,
    heads: Heads,
    prompts: PromptSet,
    pool: Path,
    out: Path,
    plan: SpeechPlan,
) -> LlavaForConditionalGeneration:
    """Train until the time is over; resume from `out` when it holds a checkpoint."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    talker = Talker(model, tokenizer, prompts, plan)
    spent = _resumed(talker, out)
    started, saved = time.monotonic() - spent, spent
    sight = SightPlan(twos=plan.twos, loaders=plan.loaders, seed=plan.seed + 1)
    with (out / "speech.jsonl").open("a", encoding="utf-8") as log:
        for examples in example_batches(pool, sight, start=talker.steps):
            spent = time.monotonic() - started
            if spent >= plan.seconds:
                break
            talker.look(examples, heads)
            parts = talker.step(len(examples), progress=spent / plan.seconds)
            if talker.steps % 10 == 0:
                log.write(json.dumps({"step": talker.steps, "seconds": round(spent), **parts}) + "\n")
                log.flush()
            if spent - saved > plan.checkpoint:
                _save(talker, out, seconds=spent)
                saved = spent
    _save(talker, out, seconds=spent)
    return model.eval()


def _save(talker: Talker, out: Path, *, seconds: float) -> None:
    weights = {name: value.contiguous() for name, value in talker.model.state_dict().items()}
    weights.pop("lm_head.weight", None)  # tied to the embedding
    save_file(weights, out / "speech.safetensors")
    state = {"seconds": seconds, "step": talker.steps, "plan": asdict(talker.plan)}
    (out / "speech.json").write_text(json.dumps(state, indent=1), encoding="utf-8")


def _resumed(talker: Talker, out: Path) -> float:
    """Seconds already spent; 0 without a checkpoint."""
    if not (out / "speech.json").is_file():
        return 0.0
    state = json.loads((out / "speech.json").read_text(encoding="utf-8"))
    talker.model.load_state_dict(load_file(out / "speech.safetensors"), strict=False)
    talker.steps = state["step"]
    return state["seconds"]
