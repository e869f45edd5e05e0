"""What the engine must equal: separate whole prompts through transformers, one picture and one question at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from moderation.analysis import Technique
from moderation.dfa.gpt.bundle import Bundle, BundleSpec, load_bundle
from moderation.dfa.gpt.script import Tokens


@dataclass(frozen=True)
class Expected:
    margin: float
    options: dict[Technique, float]
    rationale: Tokens


def loaded(spec: BundleSpec) -> Bundle:
    """A bundle of its own for each test: an engine changes how its model attends."""
    return load_bundle(spec, device=torch.device("cpu"), dtype=torch.float32)


def pixel_values(spec: BundleSpec, picture: np.ndarray) -> torch.Tensor:
    """As the processors of transformers make them: (1, 3, S, S)."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (spec.image.mean, spec.image.std))
    return ((torch.from_numpy(picture).permute(2, 0, 1).float() / 255 - mean) / std)[None]


class Reference:
    """The same questions as whole prompts, without any cache."""

    def __init__(self, spec: BundleSpec) -> None:
        self.bundle = loaded(spec)
        self.image_token = self.bundle.model.config.image_token_id
        self.patches = self.bundle.model.config.image_seq_length

    def prompt(self, *pieces: Sequence[int]) -> list[int]:
        script = self.bundle.script
        ids = [*script.system, *[self.image_token] * self.patches, *script.detect]
        return ids + [token for piece in pieces for token in piece]

    @torch.inference_mode()
    def log_p(self, ids: Sequence[int], picture: np.ndarray) -> torch.Tensor:
        pixels = cast("Any", pixel_values(self.bundle.spec, picture))
        tokens = cast("Any", torch.tensor([ids]))
        logits = self.bundle.model(input_ids=tokens, pixel_values=pixels, use_cache=False).logits
        return logits[0].float().log_softmax(-1)

    def margin(self, picture: np.ndarray) -> float:
        last = self.log_p(self.prompt(), picture)[-1]
        return float(last[self.bundle.script.yes] - last[self.bundle.script.no])

    def options(self, picture: np.ndarray) -> dict[Technique, float]:
        script = self.bundle.script
        start = self.prompt(script.classify)
        sums: dict[Technique, float] = {}
        for technique, tokens in script.options.items():
            log_p = self.log_p([*start, *tokens], picture)
            sums[technique] = sum(float(log_p[len(start) - 1 + k, token]) for k, token in enumerate(tokens))
        return sums

    @torch.inference_mode()
    def generate(self, ids: Sequence[int], picture: np.ndarray, *, max_new_tokens: int) -> Tokens:
        tokens = cast("Any", torch.tensor([ids]))
        written = (
            cast("Any", self.bundle.model)
            .generate(
                input_ids=tokens,
                pixel_values=pixel_values(self.bundle.spec, picture),
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=self.bundle.script.end,
                pad_token_id=3,
            )[0, len(ids) :]
            .tolist()
        )
        return tuple(token for token in written if token != self.bundle.script.end)

    def expected(self, picture: np.ndarray, *, max_new_tokens: int) -> Expected:
        """The whole conversation with "Yes." said for the face."""
        script = self.bundle.script
        options = self.options(picture)
        chosen = max(options, key=lambda name: options[name] / len(script.options[name]))
        ids = self.prompt(script.classify, script.explain[chosen])
        rationale = self.generate(ids, picture, max_new_tokens=max_new_tokens)
        return Expected(margin=self.margin(picture), options=options, rationale=rationale)
