"""A bundle: one folder with everything a verdict depends on: model, adapter, tokenizer, prompts, calibration.

`bundle.toml` names the parts and holds a digest of each file. Weights are safetensors; nothing is unpickled and no
code is loaded from a bundle. Every fault is a `BundleMismatch` that names the file and the remedy: a model that may
be another than the one asked for must not start.
"""

import hashlib
import json
import re
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from moderation.analysis import Technique
from moderation.dfa.gpt.base import BASE_DIGEST, BUNDLE_FILE, PACKAGED, SHIPPED, base_of, check_base
from moderation.dfa.gpt.calibration import Platt, load_platt, save_platt
from moderation.dfa.gpt.grounding.intent_head import IntentHead, load_intents
from moderation.dfa.gpt.heads import Heads
from moderation.dfa.gpt.projector import pool_patches
from moderation.dfa.gpt.prompts import PROMPTS_VERSION, PromptSet, load_prompts
from moderation.dfa.gpt.script import Codec, Script, write_script
from moderation.dfa.gpt.tower import Tower, fold_batch_norms
from moderation.errors import BundleMismatch

MINI = SHIPPED["mini"]

#: CLIP's constants (openai/clip-vit-large-patch14-336, preprocessor_config.json), used by LLaVA-1.5.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

#: Files that are, or may hold, pickles or code. A bundle has none, used or not.
_FORBIDDEN = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".py", ".msgpack", ".h5"})
#: haotian-liu/LLaVA's names for transformers' multi_modal_projector and language_model.layers.
_OLD_NAME = re.compile(r"\bmm_projector\b|^model\.layers\.\d")
_HUB_ID = re.compile(r"(?P<base>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")

transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class ImageSpec:
    """How a face crop becomes the model's input: a square of `size` pixels, standardised as (x/255 − mean)/std."""

    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    #: Side of the squares of patches that become one visual token: see `projector.py`.
    pool: int = 1
    #: Layers of the tower whose hidden states are read, counted from 1. Empty: those that the base's config.json names.
    layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class BundleCard:
    """What people should know of a bundle before they rely on it."""

    name: str
    version: str
    description: str
    licence: str
    training_data: str
    #: False for random weights: its verdicts mean nothing.
    trained: bool = True


@dataclass(frozen=True)
class BundleSpec:
    """The content of `bundle.toml`, checked for form."""

    card: BundleCard
    folder: Path
    image: ImageSpec
    #: A hub id. None when the base lies in the folder, or is packaged.
    base: str | None = None
    revision: str | None = None  # None when `base` is
    #: Digest of the tensors of a base assembled from packages (`base.py`). None for every other base.
    packaged: str | None = None
    #: A subfolder with a peft adapter. None when the base is complete.
    adapter: str | None = None
    prompts: int = PROMPTS_VERSION
    order: tuple[Technique, ...] = tuple(Technique)
    calibration: str | None = None  # a file in the folder
    heads: str | None = None  # a file in the folder: see `heads.py`
    intents: str | None = None  # a file in the folder: see `grounding/intent.py`
    #: sha256 of each file, by its path in the folder.
    digests: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def digest(self) -> str:
        """Equal for two bundles that give the same verdicts. The card is for people and left out."""
        parts = {
            "base": [self.base, self.revision] if self.packaged is None else [PACKAGED, self.packaged],
            "adapter": self.adapter,
            "image": [
                self.image.size,
                *self.image.mean,
                *self.image.std,
                *([self.image.pool] * (self.image.pool > 1)),
                *([list(self.image.layers)] if self.image.layers else []),
            ],
            "prompts": self.prompts,
            "order": list(self.order),
            "calibration": self.calibration,
            "files": dict(self.digests),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory, ready to be asked."""

    spec: BundleSpec
    model: LlavaForConditionalGeneration
    codec: Codec
    prompts: PromptSet
    script: Script
    calibration: Platt | None  # None: scores only order
    #: None: the bundle has no heads, so no evidence map and nothing to check the verdict against.
    heads: Heads | None = None
    #: Reads what a question asks for. None: the language model answers questions in its own words.
    intents: IntentHead | None = None


def resolve_bundle(name: str | Path) -> BundleSpec:
    """The bundle of this name: a folder, a shipped bundle, or a base without an adapter.

    Such a base is `org/name@revision` on the hub, or the packaged one (`base.PACKAGED`). Raise BundleMismatch.
    """
    if name in SHIPPED:
        return read_bundle(SHIPPED[str(name)])
    if name == PACKAGED:
        return packaged_base()
    hub = _HUB_ID.fullmatch(str(name))
    if hub is not None:
        return _base_from_hub(hub["base"], hub["revision"])
    if not Path(name).is_dir():
        raise BundleMismatch(
            f"There is no bundle {str(name)!r}: name a folder with a {BUNDLE_FILE}, "
            f"{', '.join(sorted(SHIPPED))}, or a base on the hub with its full revision, as "
            "org/name@0123456789abcdef0123456789abcdef01234567."
        )
    return read_bundle(Path(name))


def read_bundle(folder: Path) -> BundleSpec:
    """Read `bundle.toml`. Raise BundleMismatch when it is missing or malformed."""
    file = folder / BUNDLE_FILE
    try:
        return _spec(folder, tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise BundleMismatch(
            f"{file} is missing: a bundle is a folder with that file, as docs/engine.md shows."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BundleMismatch(
            f"{file} is not TOML: {error}. Restore it from where the bundle came from."
        ) from error
    except KeyError as error:
        raise BundleMismatch(
            f"{file} lacks {error}. Restore it, or add the field as docs/engine.md shows."
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise BundleMismatch(f"{file} holds an invalid value: {error}.") from error


def _spec(folder: Path, data: Mapping[str, Any]) -> BundleSpec:
    base: str = data["base"]["source"]
    hub = _HUB_ID.fullmatch(base)
    if base not in {".", PACKAGED} and hub is None:
        raise ValueError(
            f"base.source {base!r} is neither '.', {PACKAGED!r} nor org/name@ with a full 40-digit revision"
        )
    mean, std = (tuple(float(value) for value in data["image"][key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError("image.mean and image.std have three values each")
    return BundleSpec(
        card=BundleCard(
            name=data["name"],
            version=str(data["version"]),
            description=data["description"],
            licence=data["licence"],
            training_data=data["training_data"],
            trained=bool(data["trained"]),
        ),
        folder=folder,
        image=ImageSpec(
            int(data["image"]["size"]),
            mean,
            std,
            pool=_at_least_one("image.pool", data["image"].get("pool", 1)),
            layers=tuple(_at_least_one("image.layers", layer) for layer in data["image"].get("layers", ())),
        ),
        base=hub and hub["base"],
        revision=hub and hub["revision"],
        packaged=str(data["base"]["digest"]) if base == PACKAGED else None,
        adapter=data.get("adapter", {}).get("folder"),
        prompts=int(data["prompts"]["version"]),
        order=tuple(Technique(name) for name in data["prompts"]["order"]),
        calibration=data.get("calibration", {}).get("file"),
        heads=data.get("heads", {}).get("file"),
        intents=data.get("intents", {}).get("file"),
        digests=dict(data["digests"]),
    )


def _at_least_one(what: str, value: object) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{what} {value!r} is not a whole number from 1")
    return value


def packaged_base(digest: str | None = None) -> BundleSpec:
    """The base assembled from packages, without an adapter. Training starts from it."""
    return BundleSpec(
        card=BundleCard(
            name=PACKAGED,
            version="1",
            description="CLIP ViT-B/16 and SmolLM2-135M-Instruct with a random projector: it never saw a deepfake.",
            licence="MIT (CLIP), Apache-2.0 (SmolLM2)",
            training_data="see the models' own pages",
            trained=False,
        ),
        folder=base_of(digest or BASE_DIGEST, fetch=False),
        image=ImageSpec(224),
        packaged=digest or BASE_DIGEST,
        prompts=2,
    )


def _base_from_hub(base: str, revision: str) -> BundleSpec:
    """A base as published on the hub. Its image constants come from its preprocessor_config.json."""
    file = _hub_file(base, revision, "preprocessor_config.json")
    data: Any = json.loads(file.read_text(encoding="utf-8"))
    side: Any = data.get("crop_size", data.get("size"))
    size = int(side["height"] if isinstance(side, dict) else side)
    card = BundleCard(
        name=base,
        version=revision[:12],
        description="A base model without an adapter: it was never trained to find deepfakes.",
        licence="see the model's own page",
        training_data="see the model's own page",
        trained=False,
    )
    image = ImageSpec(size, tuple(data["image_mean"]), tuple(data["image_std"]))
    return BundleSpec(card=card, folder=file.parent, image=image, base=base, revision=revision)


def _hub_file(base: str, revision: str, name: str) -> Path:
    try:
        path = cached_file(base, name, revision=revision)
    except OSError as error:
        raise BundleMismatch(
            f"{name} of {base}@{revision} is neither cached nor reachable: run "
            f"`hf download {base} --revision {revision}` where there is a network."
        ) from error
    return Path(cast("str", path))


def load_bundle(spec: BundleSpec, *, device: torch.device, dtype: torch.dtype) -> Bundle:
    """Check every file, load the base, merge the adapter, fold batch norms, tokenise the prompts."""
    check_files(spec)
    prompts = _ordered(load_prompts(spec.prompts), spec)
    if spec.packaged is not None:
        check_base(base_folder(spec), spec.packaged)
    model = _load_base(spec, dtype)
    if spec.image.layers:
        _read_layers(model, spec.image.layers)
    if spec.image.pool > 1:
        pool_patches(model, spec.image.pool)
    if spec.adapter is not None:
        model = _merge_adapter(model, spec)
    if isinstance(model.model.vision_tower, Tower):
        fold_batch_norms(model.model.vision_tower)
    codec = Codec(_load_tokenizer(spec), start=model.config.get_text_config().bos_token_id)
    return Bundle(
        spec=spec,
        model=model.to(device).eval(),  # pyright: ignore[reportArgumentType]
        codec=codec,
        prompts=prompts,
        script=write_script(prompts, codec, image_token=model.config.image_token_id),
        calibration=None if spec.calibration is None else load_platt(spec.folder / spec.calibration),
        heads=None if spec.heads is None else load_heads(spec.folder / spec.heads, model).to(device),
        intents=None if spec.intents is None else _load_intents(spec.folder / spec.intents, model),
    )


def _read_layers(model: LlavaForConditionalGeneration, layers: Sequence[int]) -> None:
    """Let projector and heads read these layers of the tower. Raise BundleMismatch when they do not fit."""
    config: Any = model.config
    number, most = len(layers_read(model)), config.vision_config.num_hidden_layers
    if len(layers) != number or max(layers) > most:
        raise BundleMismatch(
            f"image.layers is {list(layers)}: name {number} of the tower's {most} layers, as the projector reads them."
        )
    config.vision_feature_layer = list(layers)


def layers_read(model: LlavaForConditionalGeneration) -> list[int]:
    """The layers of the tower whose hidden states the projector and the heads read."""
    return np.atleast_1d(cast("Any", model.config.vision_feature_layer)).tolist()


def base_folder(spec: BundleSpec) -> Path:
    """The folder of config.json and the base's weights, for a base that is not on the hub. Raise BaseMissing."""
    return spec.folder if spec.packaged is None else base_of(spec.packaged, fetch=False)


def load_heads(file: Path, model: LlavaForConditionalGeneration) -> Heads:
    """Load heads for this model's tower. Raise BundleMismatch when they were made for another tower."""
    heads = Heads(len(layers_read(model)), cast("Any", model.config.vision_config).hidden_size)
    try:
        heads.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleMismatch(f"{file} holds heads for another tower: {error}") from error
    return heads.float().eval().requires_grad_(requires_grad=False)


def _load_intents(file: Path, model: LlavaForConditionalGeneration) -> IntentHead:
    try:
        head = load_intents(file)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise BundleMismatch(f"{file} cannot be read: {error}. Copy the whole bundle again.") from error
    text: Any = model.config.get_text_config()
    fits = max(head.depths, default=0) <= text.num_hidden_layers
    if not fits or head.width != text.hidden_size:
        raise BundleMismatch(f"{file} belongs to another language model: use the file of this bundle.")
    return head


def check_files(spec: BundleSpec) -> None:
    """Check that every named file has its digest and that no other file could be loaded. Raise BundleMismatch."""
    for name, expected in spec.digests.items():
        file = spec.folder / name
        if not file.is_file():
            raise BundleMismatch(f"{file} is missing: copy the whole bundle again.")
        if digest_of(file) != expected:
            raise BundleMismatch(
                f"{file} is not the file that {BUNDLE_FILE} names (sha256 differs): copy the bundle again, or, if you "
                "changed the file, write the bundle anew with write_bundle."
            )
    if (spec.folder / BUNDLE_FILE).is_file():
        _refuse_the_rest(spec)


def _refuse_the_rest(spec: BundleSpec) -> None:
    for file in sorted(spec.folder.rglob("*")):
        if file.suffix in _FORBIDDEN:
            raise BundleMismatch(
                f"{file} may hold code or a pickle, and a bundle has neither: convert weights to safetensors and "
                "delete the file."
            )
        name = file.relative_to(spec.folder).as_posix()
        if file.suffix in {".safetensors", ".json"} and name not in spec.digests:
            raise BundleMismatch(
                f"{file} has no digest in {BUNDLE_FILE}: delete it, or write the bundle anew."
            )


def digest_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _ordered(prompts: PromptSet, spec: BundleSpec) -> PromptSet:
    if set(spec.order) != set(prompts.order) or len(spec.order) != len(prompts.order):
        raise BundleMismatch(
            f"{spec.folder / BUNDLE_FILE} orders the techniques as {list(spec.order)}, but prompt set "
            f"{prompts.version} has {list(prompts.order)}: name each once."
        )
    return replace(prompts, order=spec.order)


def _load_base(spec: BundleSpec, dtype: torch.dtype) -> LlavaForConditionalGeneration:
    _require_llava(spec)
    source = str(base_folder(spec)) if spec.base is None else spec.base
    try:
        model, info = cast("Any", LlavaForConditionalGeneration.from_pretrained)(
            source,
            revision=spec.revision or "main",
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=spec.base is None,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise BundleMismatch(
            f"The base model of {spec.card.name} cannot be loaded from {source} as LLaVA in safetensors: {error}"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise BundleMismatch(
            f"The weights in {source} lack {missing[0]} and {len(missing) - 1} more, so the model would be partly "
            "random: copy the whole base again."
        )
    return model


def _require_llava(spec: BundleSpec) -> None:
    if spec.base is None:
        file = base_folder(spec) / "config.json"
        if not file.is_file():
            raise BundleMismatch(f"{file} is missing: copy the whole bundle again.")
    else:
        file = _hub_file(spec.base, spec.revision or "", "config.json")
    config: Any = json.loads(file.read_text(encoding="utf-8"))
    if config.get("model_type") != "llava":
        raise BundleMismatch(
            f"{file} describes a {config.get('model_type')!r} model; the engine runs the LLaVA layout "
            "(LlavaForConditionalGeneration) only."
        )
    if "auto_map" in config:
        raise BundleMismatch(f"{file} asks for code of its own (auto_map); no code is loaded from a bundle.")
    _require_followed(config, file)


#: Kinds of rotary embedding whose angles do not depend on a conversation's length.
_STEADY_ROPES = frozenset({"default", "linear", "llama3", "yarn"})


def _require_followed(config: Mapping[str, Any], file: Path) -> None:
    """Refuse settings that the engine would ignore: it runs the decoder's layers itself, over its own slots."""
    text: Mapping[str, Any] = config.get("text_config", {})
    if "quantization_config" in config or "quantization_config" in text:
        raise BundleMismatch(
            f"{file} asks for quantised weights (quantization_config), which the engine does not support: use the "
            "weights from before quantisation."
        )
    if text.get("sliding_window") and text.get("use_sliding_window", True):
        raise BundleMismatch(
            f"{file} has a sliding window of {text['sliding_window']} tokens, but the engine attends to all tokens."
        )
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in _STEADY_ROPES:
        raise BundleMismatch(
            f"{file} has {kind!r} rotary embeddings, whose angles change with the length of a conversation; the "
            f"engine supports {', '.join(sorted(_STEADY_ROPES))}."
        )


def _load_tokenizer(spec: BundleSpec) -> Tokenizer:
    file = base_folder(spec) / "tokenizer.json"
    if spec.base is not None and not file.is_file():
        file = _hub_file(spec.base, spec.revision or "", "tokenizer.json")
    if not file.is_file():
        raise BundleMismatch(f"{file} is missing: copy it from the base model.")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust library raises bare Exception
        raise BundleMismatch(f"{file} is not a tokenizer ({error}): copy it from the base model.") from error


def _merge_adapter(model: LlavaForConditionalGeneration, spec: BundleSpec) -> LlavaForConditionalGeneration:
    """Add the LoRA products to the weights, and take over a trained projector. Returns a plain LLaVA.

    Unmerged, each linear costs three launches instead of one (measured on CPU: 2.5 times the decode time).
    """
    # This import takes two seconds. Only a bundle with an adapter needs it.
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    folder = spec.folder / cast("str", spec.adapter)
    _require_fit(model, spec, folder)
    file = folder / "adapter_model.safetensors"
    try:
        with warnings.catch_warnings():
            # peft 0.21 uses names of transformers 5.23 that are deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            config = cast("LoraConfig", LoraConfig.from_pretrained(str(folder)))
            # `_require_fit` compared a base that has a name.
            config.base_model_name_or_path = model.name_or_path
            # Otherwise peft keeps float32 copies beside a bfloat16 base and casts in every layer.
            adapted = get_peft_model(cast("Any", model), config, autocast_adapter_dtype=False)
        _require_whole(adapted, file)
        set_peft_model_state_dict(adapted, load_file(file))
        merged = cast("Any", adapted).merge_and_unload(safe_merge=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise BundleMismatch(f"The adapter in {folder} does not merge into its base: {error}") from error
    return merged


def _require_whole(adapted: Any, file: Path) -> None:
    """Require exactly the tensors of the adapter's configuration: half an adapter is another model."""
    from peft import get_peft_model_state_dict

    wanted = set(get_peft_model_state_dict(adapted))
    with safe_open(file, framework="pt") as tensors:
        held = set(tensors.keys())
    if missing := sorted(wanted - held):
        raise BundleMismatch(
            f"{file} lacks {missing[0]} and {len(missing) - 1} more that adapter_config.json calls for, so the adapter "
            "would be partly untrained: copy it again."
        )
    if unknown := sorted(held - wanted):
        raise BundleMismatch(
            f"{file} holds {unknown[0]} and {len(unknown) - 1} more that adapter_config.json does not name, so they "
            "would be left out: save the adapter with its own configuration."
        )


def _require_fit(model: LlavaForConditionalGeneration, spec: BundleSpec, folder: Path) -> None:
    config_file, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    for file in (config_file, weights):
        if not file.is_file():
            raise BundleMismatch(
                f"{file} is missing: an adapter is saved by peft as safetensors with its config."
            )
    config: Any = json.loads(config_file.read_text(encoding="utf-8"))
    trained_on = config.get("base_model_name_or_path")
    if spec.base is not None and trained_on not in {spec.base, None}:
        raise BundleMismatch(
            f"{config_file} was trained on {trained_on}, not on {spec.base}: name that base in {BUNDLE_FILE}."
        )
    if config.get("peft_type") != "LORA":
        raise BundleMismatch(
            f"{config_file} is a {config.get('peft_type')!r} adapter; LORA is what can be merged."
        )
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    with safe_open(weights, framework="pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118  safe_open is no mapping
            _require_place(key, tuple(tensors.get_slice(key).get_shape()), shapes, weights)


def _require_place(key: str, shape: Sequence[int], shapes: Mapping[str, Sequence[int]], file: Path) -> None:
    """Require that an adapter's tensor belongs to a weight of the base and fits its width."""
    name = key.removeprefix("base_model.model.")
    target = re.sub(r"\.lora_[AB](\.weight)?$", "", name)
    weight = shapes.get(name if target == name else f"{target}.weight")
    fits = weight is not None and (
        (target == name and list(shape) == list(weight))
        or (".lora_A" in name and shape[1] == weight[1])
        or (".lora_B" in name and shape[0] == weight[0])
    )
    if not fits and _OLD_NAME.search(name):
        raise BundleMismatch(
            f"{file} holds {key}: a name of LLaVA's first code (mm_projector, model.layers). transformers' LLaVA uses "
            "other names. Convert the adapter to transformers' names, or save it from a model loaded by transformers."
        )
    if not fits:
        raise BundleMismatch(
            f"{file} holds {key} of shape {list(shape)}, and the base has no place for it: it was trained on another "
            "base. Name that base, or train the adapter again."
        )


def write_bundle(
    folder: Path,
    model: LlavaForConditionalGeneration,
    tokenizer: Tokenizer,
    *,
    card: BundleCard,
    image: ImageSpec,
    prompts: int = PROMPTS_VERSION,
    order: Sequence[Technique] = tuple(Technique),
    calibration: Platt | None = None,
) -> BundleSpec:
    """Save a whole model as a bundle. Files of the same names in `folder` are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # transformers makes them readable by their owner only
    if calibration is not None:
        save_platt(calibration, folder / "calibration.json")
    return write_card(
        BundleSpec(
            card=card,
            folder=folder,
            image=image,
            prompts=prompts,
            order=tuple(order),
            calibration=None if calibration is None else "calibration.json",
        )
    )


def write_card(spec: BundleSpec) -> BundleSpec:
    """Digest the files in the folder and write `bundle.toml`. This turns an adapter folder into a bundle."""
    files = sorted(file for file in spec.folder.rglob("*") if file.suffix in {".safetensors", ".json"})
    digests = {file.relative_to(spec.folder).as_posix(): digest_of(file) for file in files}
    spec = replace(spec, digests=digests)
    (spec.folder / BUNDLE_FILE).write_text(_toml(spec), encoding="utf-8")
    return spec


def _toml(spec: BundleSpec) -> str:
    card, quoted = spec.card, json.dumps  # a JSON string is a TOML string
    source = PACKAGED if spec.packaged else "." if spec.base is None else f"{spec.base}@{spec.revision}"
    lines = [
        f"name = {quoted(card.name)}",
        f"version = {quoted(card.version)}",
        f"description = {quoted(card.description, ensure_ascii=False)}",
        f"licence = {quoted(card.licence, ensure_ascii=False)}",
        f"training_data = {quoted(card.training_data, ensure_ascii=False)}",
        f"trained = {str(card.trained).lower()}",
        f"\n[base]\nsource = {quoted(source)}",
        *([f"digest = {quoted(spec.packaged)}"] if spec.packaged else []),
        *([f"\n[adapter]\nfolder = {quoted(spec.adapter)}"] if spec.adapter else []),
        f"\n[prompts]\nversion = {spec.prompts}\norder = {quoted([name.value for name in spec.order])}",
        f"\n[image]\nsize = {spec.image.size}\nmean = {list(spec.image.mean)}\nstd = {list(spec.image.std)}",
        *([f"pool = {spec.image.pool}"] if spec.image.pool > 1 else []),
        *([f"layers = {list(spec.image.layers)}"] if spec.image.layers else []),
        *([f"\n[calibration]\nfile = {quoted(spec.calibration)}"] if spec.calibration else []),
        *([f"\n[heads]\nfile = {quoted(spec.heads)}"] if spec.heads else []),
        *([f"\n[intents]\nfile = {quoted(spec.intents)}"] if spec.intents else []),
        "\n[digests]",
        *(f"{quoted(name)} = {quoted(digest)}" for name, digest in spec.digests.items()),
    ]
    return "\n".join(lines) + "\n"
