"""Bundles of known layouts with random weights, to test and time the engine.

Their verdicts mean nothing, and their cards say so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from moderation.dfa.gpt.bundle import BundleCard, BundleSpec, ImageSpec, write_bundle
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.gpt.tower import LITE0_STAGES, TowerConfig

#: EfficientNet-Lite's constants: (x − 127)/128.
LITE_MEAN = (127 / 255, 127 / 255, 127 / 255)
LITE_STD = (128 / 255, 128 / 255, 128 / 255)

#: The first five tokens of every tokenizer made here.
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", "<image>")


@dataclass(frozen=True)
class Layout:
    """The sizes of one LLaVA-layout model."""

    name: str
    image: ImageSpec
    vision: CLIPVisionConfig | TowerConfig
    #: Visual tokens of one picture.
    patches: int
    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    tied: bool = False
    #: Hidden states that the projector concatenates, with the class token. None: the tower's usual ones.
    reads: tuple[int, ...] | None = None

    def config(self, vocabulary: int) -> LlavaConfig:
        """As in LLaVA-1.5: CLIP's second last layer without its class token. Our tower's output is used unchanged."""
        clip = isinstance(self.vision, CLIPVisionConfig)
        text = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=3,
        )
        text.tie_word_embeddings = self.tied
        config = LlavaConfig(
            vision_config=self.vision,
            text_config=text,
            image_token_index=4,
            image_seq_length=self.patches,
            vision_feature_layer=list(self.reads) if self.reads else -2 if clip else -1,
            vision_feature_select_strategy="default" if clip and not self.reads else "full",
            tie_word_embeddings=self.tied,
        )
        config.image_token_id = 4
        return config


def layout(name: str) -> Layout:
    """The layout of a bundle: `mini` with our tower, `small`, `llava-1.5-7b`, or a tiny version of each."""
    return {entry.name: entry for entry in _layouts()}[name]


def _layouts() -> Iterable[Layout]:
    small_stages = tuple(
        (1, kernel, stride, 2, max(8, out // 8)) for _, kernel, stride, _, out in LITE0_STAGES
    )
    yield Layout(
        name="tiny",
        image=ImageSpec(64, LITE_MEAN, LITE_STD),
        vision=TowerConfig(
            hidden_size=32, image_size=64, patch_size=16, stem_channels=8, stages=small_stages,
            residual_channels=(8, 8, 16, 16),
        ),
        patches=16, vocabulary=1024, width=64, inner=128, layers=2, heads=4,
    )  # fmt: skip
    yield Layout(
        name="mini",
        image=ImageSpec(224, LITE_MEAN, LITE_STD),
        vision=TowerConfig(hidden_size=256, image_size=224, patch_size=16),
        patches=196, vocabulary=2048, width=256, inner=704, layers=6, heads=8, tied=True,
    )  # fmt: skip
    yield Layout(
        name="small",
        image=ImageSpec(224),
        vision=_clip(768, inner=3072, layers=12, heads=12, image=224, patch=16, projection=512),
        patches=197, vocabulary=49153, width=576, inner=1536, layers=30, heads=9, tied=True, reads=(6, 8, 10, 12),
    )  # fmt: skip
    yield Layout(
        name="small-tiny",
        image=ImageSpec(224),
        vision=_clip(32, inner=64, layers=4, heads=4, image=224, patch=16, projection=32),
        patches=197, vocabulary=1024, width=64, inner=172, layers=3, heads=4, tied=True, reads=(2, 4),
    )  # fmt: skip
    yield Layout(
        name="llava-1.5-tiny",
        image=ImageSpec(56),
        vision=_clip(32, inner=64, layers=3, heads=4, image=56, patch=14, projection=32),
        patches=16, vocabulary=1024, width=64, inner=172, layers=3, heads=4,
    )  # fmt: skip
    yield Layout(
        name="llava-1.5-7b",
        image=ImageSpec(336),
        vision=_clip(1024, inner=4096, layers=24, heads=16, image=336, patch=14, projection=768),
        patches=576, vocabulary=32064, width=4096, inner=11008, layers=32, heads=32,
    )  # fmt: skip


def _clip(
    width: int, *, inner: int, layers: int, heads: int, image: int, patch: int, projection: int
) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=image,
        patch_size=patch,
        projection_dim=projection,
    )


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE for any text, with `SPECIAL_TOKENS` first and every digit a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def random_model(
    chosen: Layout,
    *,
    seed: int = 0,
    vocabulary: int | None = None,
    device: str = "cpu",
    dtype: Any = torch.float32,
) -> LlavaForConditionalGeneration:
    """Random weights, large enough that an answer depends on its context; otherwise tests of equality prove nothing."""
    config = chosen.config(vocabulary or chosen.vocabulary)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device(device):
        previous = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = LlavaForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(previous)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                # At any width, a layer keeps the variance or raises it a little.
                fan_in = parameter[0].numel()
                parameter.normal_(0, 1.6 * fan_in**-0.5, generator=generator)
        model.get_input_embeddings().weight.normal_(0, 1, generator=generator)  # pyright: ignore[reportCallIssue]
        model.lm_head.weight.mul_(2 * chosen.width**-0.5 if chosen.tied else 1.5)
    return model.eval()


def random_bundle(
    folder: Path, name: str = "tiny", *, seed: int = 0, bundle_name: str | None = None
) -> BundleSpec:
    """Write a complete bundle with random weights in a known layout."""
    chosen = layout(name)
    prompts = load_prompts()
    tokenizer = train_tokenizer(prompts.texts(), chosen.vocabulary)
    # Half precision is enough for random weights, and a small file copies faster.
    model = random_model(chosen, seed=seed).half()
    card = BundleCard(
        name=bundle_name or name,
        version="0-untrained",
        description="Random weights: a stand-in with the right form. Its verdicts mean nothing.",
        licence="Apache-2.0",
        training_data="none",
        trained=False,
    )
    return write_bundle(folder, model, tokenizer, card=card, image=chosen.image)
