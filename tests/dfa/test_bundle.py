"""Every way a bundle can be wrong, and the ways that are right."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, trainers

from moderation.analysis import Technique
from moderation.dfa.gpt import bundle as bundles
from moderation.dfa.gpt.bundle import (
    MINI,
    Bundle,
    BundleSpec,
    load_bundle,
    read_bundle,
    resolve_bundle,
    write_card,
)
from moderation.dfa.gpt.calibration import Platt, save_platt
from moderation.dfa.gpt.heads import Heads
from moderation.dfa.gpt.layouts import SPECIAL_TOKENS, layout, random_bundle, random_model, train_tokenizer
from moderation.dfa.gpt.prompts import load_prompts
from moderation.errors import BundleMismatch
from tests.dfa.conftest import a_picture, copy_of
from tests.dfa.reference import pixel_values

CPU = torch.device("cpu")
LANGUAGE_MODEL = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def load(folder: Path) -> Bundle:
    return load_bundle(read_bundle(folder), device=CPU, dtype=torch.float32)


def rewrite(file: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def edit(folder: Path, old: str, new: str) -> None:
    file = folder / "bundle.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_written_bundle_is_the_one_that_is_read(tiny: BundleSpec) -> None:
    assert read_bundle(tiny.folder) == tiny


def test_the_shipped_bundle_loads_and_says_whether_it_is_trained() -> None:
    spec = resolve_bundle("mini")

    bundle = load_bundle(spec, device=CPU, dtype=torch.float32)

    assert spec.folder == MINI
    assert spec.card.name == "mini"
    assert spec.card.trained or "mean nothing" in spec.card.description
    assert bundle.script.yes != bundle.script.no


def test_a_tiny_bundle_is_under_two_megabytes(tiny: BundleSpec) -> None:
    assert sum(file.stat().st_size for file in tiny.folder.iterdir()) < 2e6


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _replace_toml(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: edit(folder, old, new)


def _write(name: str, data: bytes) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return breaks


def _config(change: Callable[[Any], None]) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        rewrite(folder / "config.json", change)
        write_card(read_bundle(folder))

    return breaks


def _tokenizer(change: Callable[[Tokenizer], Tokenizer]) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        change(Tokenizer.from_file(str(folder / "tokenizer.json"))).save(str(folder / "tokenizer.json"))
        write_card(read_bundle(folder))

    return breaks


def _weights(folder: Path) -> None:
    """Replace the weights by those of a smaller model, with right digests."""
    small = replace(layout("tiny"), layers=1)
    random_model(small).half().save_pretrained(folder / "other")
    (folder / "model.safetensors").write_bytes((folder / "other" / "model.safetensors").read_bytes())
    for file in (folder / "other").iterdir():
        file.unlink()
    write_card(read_bundle(folder))


def _without_yes(tokenizer: Tokenizer) -> Tokenizer:
    """A vocabulary in which no answer is one token."""
    return train_tokenizer([], 261)


def _without_word_borders(tokenizer: Tokenizer) -> Tokenizer:
    """Merges across spaces, so that a prompt's end and the answer's beginning become one token."""
    greedy = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    greedy.train_from_iterator([*load_prompts().texts(), *["ASSISTANT: Yes. ASSISTANT: No."] * 100], trainer)
    return greedy


BROKEN: list[Any] = [
    pytest.param(_remove("bundle.toml"), "bundle.toml is missing", id="no bundle.toml"),
    pytest.param(_write("bundle.toml", b"= ="), "is not TOML", id="not TOML"),
    pytest.param(_replace_toml("licence", "license"), "lacks 'licence'", id="a field is missing"),
    pytest.param(
        _replace_toml('source = "."', 'source = "org/name"'), "full 40-digit revision", id="no revision"
    ),
    pytest.param(_replace_toml('"EFS"', '"XYZ"'), "'XYZ'", id="an unknown technique"),
    pytest.param(_replace_toml(', "EFS"', ""), "name each once", id="a technique is missing"),
    pytest.param(_replace_toml("version = 1", "version = 99"), "prompt set 99", id="an unknown prompt set"),
    pytest.param(_remove("tokenizer.json"), "tokenizer.json is missing", id="a file is missing"),
    pytest.param(_write("tokenizer.json", b"{}"), "sha256 differs", id="a file was changed"),
    pytest.param(_write("model.safetensors", b"0"), "sha256 differs", id="the weights were changed"),
    pytest.param(_write("extra.json", b"{}"), "no digest", id="a file that was not named"),
    pytest.param(_write("pytorch_model.bin", b"x"), "neither", id="a pickle lies beside"),
    pytest.param(_write("modeling.py", b"x"), "neither", id="code lies beside"),
    pytest.param(_config(lambda c: c.update(model_type="qwen2_vl")), "LLaVA layout", id="another layout"),
    pytest.param(
        _config(lambda c: c.update(auto_map={"AutoModel": "x.Y"})), "auto_map", id="code of its own"
    ),
    pytest.param(_weights, "lack", id="weights of a smaller model"),
    pytest.param(_tokenizer(_without_yes), "single tokens", id="answers are several tokens"),
    pytest.param(
        _tokenizer(_without_word_borders),
        "does not join",
        id="a template that does not join",
    ),
    pytest.param(
        _config(lambda c: c.update(image_token_id=7, image_token_index=7)), "image token 7", id="image token"
    ),
]


@pytest.mark.parametrize(("breaks", "sentence"), BROKEN)
def test_a_broken_bundle_is_refused_with_a_sentence(
    tiny: BundleSpec, tmp_path: Path, breaks: Callable[[Path], None], sentence: str
) -> None:
    folder = copy_of(tiny, tmp_path / "bundle")
    breaks(folder)

    with pytest.raises(BundleMismatch, match=sentence):
        load(folder)


def test_a_joint_that_merges_is_refused() -> None:
    from moderation.dfa.gpt.script import Codec

    codec = Codec(train_tokenizer(["ab" * 20], 300), start=1)

    with pytest.raises(BundleMismatch, match="does not join"):
        codec.after("a", "b")


@pytest.mark.parametrize("name", ["nowhere", "org/name", "org/name@main", "org/name@0123"])
def test_a_name_that_is_no_bundle_says_what_is(name: str) -> None:
    with pytest.raises(BundleMismatch, match="mini"):
        resolve_bundle(name)


def test_a_base_that_is_neither_cached_nor_reachable_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("offline")

    monkeypatch.setattr(bundles, "cached_file", unreachable)

    with pytest.raises(BundleMismatch, match="hf download org/name"):
        resolve_bundle("org/name@" + "0" * 40)


def test_a_base_from_the_hub_needs_no_bundle_file(
    scaled_llava: BundleSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = {"crop_size": {"height": 56, "width": 56}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    cache = scaled_llava.folder.parent / "cache"
    cache.mkdir(exist_ok=True)
    for file in scaled_llava.folder.iterdir():
        if file.name != "bundle.toml":
            (cache / file.name).write_bytes(file.read_bytes())
    (cache / "preprocessor_config.json").write_text(json.dumps(processor))
    monkeypatch.setattr(bundles, "cached_file", lambda base, name, **_: str(cache / name))
    spec = resolve_bundle("org/name@" + "0" * 40)
    real: Any = bundles.LlavaForConditionalGeneration.from_pretrained
    asked: dict[str, Any] = {}

    def from_cache(source: str, **options: Any) -> Any:
        asked.update(source=source, **options)
        return real(str(cache), **(options | {"local_files_only": True}))

    monkeypatch.setattr(bundles.LlavaForConditionalGeneration, "from_pretrained", from_cache)

    loaded = load_bundle(spec, device=CPU, dtype=torch.float32)

    assert (spec.image.size, spec.image.mean) == (56, (0.5, 0.5, 0.5))
    assert (asked["source"], asked["revision"], asked["trust_remote_code"]) == ("org/name", "0" * 40, False)
    assert asked["use_safetensors"] is True
    assert loaded.script.yes != loaded.script.no


def an_adapter(spec: BundleSpec, folder: Path, *, projector: bool, base: str | None = None) -> torch.Tensor:
    """Train-like LoRA weights saved by peft into `folder`; returns the adapted model's logits for one picture."""
    model = load_bundle(spec, device=CPU, dtype=torch.float32).model
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=LANGUAGE_MODEL,
        modules_to_save=["multi_modal_projector"] if projector else None,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers in words that will be renamed
        adapted: Any = get_peft_model(cast("Any", model), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    adapted.peft_config["default"].base_model_name_or_path = base
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # peft looks for the base on the hub, to see whether its vocabulary changed
        adapted.save_pretrained(folder)
    for stray in folder.glob("*.md"):
        stray.unlink()
    return logits(adapted.eval(), spec)


@torch.inference_mode()
def logits(model: Any, spec: BundleSpec) -> torch.Tensor:
    config = load_config(spec)
    ids = torch.tensor([[1, 40, 41, *[4] * config["image_seq_length"], 42, 43]])
    pixels = pixel_values(spec, a_picture(spec.image.size, 9))
    return model(input_ids=ids, pixel_values=pixels, use_cache=False).logits[0]


def load_config(spec: BundleSpec) -> dict[str, Any]:
    return json.loads((spec.folder / "config.json").read_text())


@pytest.mark.parametrize("projector", [False, True], ids=["lora alone", "lora and projector"])
def test_a_merged_adapter_equals_the_adapted_model(
    scaled_llava: BundleSpec, tmp_path: Path, projector: bool
) -> None:
    folder = copy_of(scaled_llava, tmp_path / "bundle")
    adapted = an_adapter(scaled_llava, folder / "adapter", projector=projector)
    spec = write_card(replace(read_bundle(folder), adapter="adapter"))

    model = load_bundle(spec, device=CPU, dtype=torch.float32).model

    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert not any("lora" in name for name, _ in model.named_modules())
    base = logits(load(scaled_llava.folder).model, scaled_llava)
    assert (logits(model, scaled_llava) - adapted).abs().max() < 1e-4
    assert (
        base - adapted
    ).abs().max() > 1e-2  # else the adapter did nothing, and equality would mean nothing
    assert spec.digest != scaled_llava.digest


def test_an_adapter_in_half_precision_stays_near_the_full_one(
    scaled_llava: BundleSpec, tmp_path: Path
) -> None:
    folder = copy_of(scaled_llava, tmp_path / "bundle")
    adapted = an_adapter(scaled_llava, folder / "adapter", projector=True)
    spec = write_card(replace(read_bundle(folder), adapter="adapter"))

    model = load_bundle(spec, device=CPU, dtype=torch.bfloat16).model

    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    last = logits(model.float(), scaled_llava)[-1]
    assert (last.softmax(-1) - adapted[-1].softmax(-1)).abs().max() < 0.05


def test_an_adapter_of_another_width_is_refused(
    tiny: BundleSpec, scaled_llava: BundleSpec, tmp_path: Path
) -> None:
    folder = copy_of(tiny, tmp_path / "bundle")
    an_adapter(scaled_llava, folder / "adapter", projector=False)
    spec = write_card(replace(read_bundle(folder), adapter="adapter"))

    with pytest.raises(BundleMismatch, match="another base"):
        load_bundle(spec, device=CPU, dtype=torch.float32)


def test_an_adapter_trained_on_another_hub_base_is_refused(scaled_llava: BundleSpec, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    an_adapter(scaled_llava, folder / "adapter", projector=False, base="org/other")
    spec = replace(
        scaled_llava, folder=folder, base="org/name", revision="0" * 40, adapter="adapter", digests={}
    )
    model = load(scaled_llava.folder).model

    with pytest.raises(BundleMismatch, match="org/other, not on org/name"):
        bundles._merge_adapter(model, write_card(spec))


def test_an_adapter_without_safetensors_is_refused(scaled_llava: BundleSpec, tmp_path: Path) -> None:
    folder = copy_of(scaled_llava, tmp_path / "bundle")
    an_adapter(scaled_llava, folder / "adapter", projector=False)
    (folder / "adapter" / "adapter_model.safetensors").unlink()
    spec = write_card(replace(read_bundle(folder), adapter="adapter"))

    with pytest.raises(BundleMismatch, match="safetensors is missing"):
        load_bundle(spec, device=CPU, dtype=torch.float32)


def _kept(keep: Callable[[str], bool]) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {name: value for name, value in tensors.items() if keep(name)}


HALF_ADAPTERS = [
    pytest.param(_kept(lambda _: False), "lacks", id="no tensors"),
    pytest.param(_kept(lambda name: "layers.0" not in name), "lacks", id="a layer missing"),
    pytest.param(_kept(lambda name: "lora_A" in name), "lacks", id="lora_A alone"),
    pytest.param(_kept(lambda name: "projector" not in name), "lacks", id="a projector that was to come"),
    pytest.param(
        lambda tensors: {
            **tensors,
            **{
                name.replace("lora_A", "lora_extra"): value.clone()
                for name, value in tensors.items()
                if "q_proj.lora_A" in name
            },
        },
        "no place",
        id="tensors of another kind",
    ),
    pytest.param(
        lambda tensors: {
            name.replace("multi_modal_projector.linear_1", "mm_projector.0"): value
            for name, value in tensors.items()
        },
        "names",
        id="LLaVA's first names",
    ),
]


@pytest.mark.parametrize(("change", "words"), HALF_ADAPTERS)
def test_half_an_adapter_is_refused(
    scaled_llava: BundleSpec,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
    words: str,
) -> None:
    folder = copy_of(scaled_llava, tmp_path / "bundle")
    an_adapter(scaled_llava, folder / "adapter", projector=True)
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    spec = write_card(replace(read_bundle(folder), adapter="adapter"))

    with pytest.raises(BundleMismatch, match=words):
        load_bundle(spec, device=CPU, dtype=torch.float32)


def test_tensors_that_the_configuration_does_not_name_are_refused(
    scaled_llava: BundleSpec, tmp_path: Path
) -> None:
    folder = copy_of(scaled_llava, tmp_path / "bundle")
    an_adapter(scaled_llava, folder / "adapter", projector=True)
    rewrite(folder / "adapter" / "adapter_config.json", lambda data: data.update(modules_to_save=None))
    spec = write_card(replace(read_bundle(folder), adapter="adapter"))

    with pytest.raises(BundleMismatch, match="does not name"):
        load_bundle(spec, device=CPU, dtype=torch.float32)


def test_an_adapter_of_another_kind_is_refused(scaled_llava: BundleSpec, tmp_path: Path) -> None:
    folder = copy_of(scaled_llava, tmp_path / "bundle")
    an_adapter(scaled_llava, folder / "adapter", projector=False)
    rewrite(folder / "adapter" / "adapter_config.json", lambda data: data.update(peft_type="LOHA"))
    spec = write_card(replace(read_bundle(folder), adapter="adapter"))

    with pytest.raises(BundleMismatch, match="LOHA"):
        load_bundle(spec, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param({"sliding_window": 128}, "sliding window of 128", id="sliding window"),
        pytest.param({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic", id="dynamic rope"),
        pytest.param({"rope_parameters": {"rope_type": "longrope"}}, "longrope", id="long rope"),
        pytest.param({"quantization_config": {"quant_method": "awq"}}, "quantised", id="quantised"),
    ],
)
def test_a_configuration_that_the_engine_does_not_follow_is_refused(
    scaled_llava: BundleSpec, tmp_path: Path, text: dict[str, Any], words: str
) -> None:
    folder = copy_of(scaled_llava, tmp_path / "bundle")

    def change(data: dict[str, Any]) -> None:
        for name in ("rope_parameters", "rope_scaling"):
            data["text_config"].pop(name, None)
        data["text_config"].update(text)

    rewrite(folder / "config.json", change)
    spec = write_card(read_bundle(folder))

    with pytest.raises(BundleMismatch, match=words):
        load_bundle(spec, device=CPU, dtype=torch.float32)


def test_a_window_that_is_switched_off_is_no_reason_to_refuse(
    scaled_llava: BundleSpec, tmp_path: Path
) -> None:
    folder = copy_of(scaled_llava, tmp_path / "bundle")
    window = {"sliding_window": 128, "use_sliding_window": False}
    rewrite(folder / "config.json", lambda data: data["text_config"].update(window))

    load_bundle(write_card(read_bundle(folder)), device=CPU, dtype=torch.float32)


def test_heads_come_with_a_bundle_and_those_of_another_tower_are_refused(tmp_path: Path) -> None:
    made = random_bundle(tmp_path / "bundle", "small-tiny")
    for layers, fits in ((2, True), (3, False)):
        save_file(Heads(layers, 32).state_dict(), made.folder / "heads.safetensors")
        spec = write_card(replace(made, heads="heads.safetensors"))

        if fits:
            assert load_bundle(spec, device=CPU, dtype=torch.float32).heads is not None
            assert spec.digest != made.digest
        else:
            with pytest.raises(BundleMismatch, match="another tower"):
                load_bundle(spec, device=CPU, dtype=torch.float32)


def test_a_calibration_is_part_of_the_bundle_and_of_its_digest(tiny: BundleSpec, tmp_path: Path) -> None:
    folder = copy_of(tiny, tmp_path / "bundle")
    fitted = Platt(a=0.5, b=-1.0, version="2026-11-23", n=300, digest="00")
    save_platt(fitted, folder / "calibration.json")
    spec = write_card(replace(read_bundle(folder), calibration="calibration.json"))

    assert load(folder).calibration == fitted
    assert spec.digest != tiny.digest
    (folder / "calibration.json").write_text("{}")
    write_card(spec)
    with pytest.raises(BundleMismatch, match="bonafide dfa calibrate"):
        load(folder)


def test_the_order_of_techniques_is_the_bundles(tiny: BundleSpec, tmp_path: Path) -> None:
    folder = copy_of(tiny, tmp_path / "bundle")
    order = (Technique.EFS, Technique.FE, Technique.FR, Technique.FS)
    write_card(replace(read_bundle(folder), order=order))

    assert tuple(load(folder).script.options) == order


def test_the_digest_does_not_depend_on_the_card(tiny: BundleSpec) -> None:
    other = replace(tiny, card=replace(tiny.card, description="other words"))

    assert other.digest == tiny.digest


def test_pieces_of_the_script_join_to_the_whole_dialogue(tiny: BundleSpec) -> None:
    bundle, prompts = load(tiny.folder), load_prompts()
    script, token = bundle.script, bundle.model.config.image_token_id
    turns = [
        (prompts.detection[0], "Yes."),
        (prompts.classification[0], prompts.technique_answers[Technique.FE]),
        (prompts.description[0], prompts.no_artifacts),
    ]

    whole = bundle.codec.encode(prompts.dialogue(turns))

    pieces = (*script.system, token, *script.detect, *script.classify, *script.explain[Technique.FE])
    assert whole[: len(pieces)] == pieces
    assert whole[-1] == script.end
    assert script.classify[0] == script.yes
    assert all(len(tokens) > 1 for tokens in script.options.values())


def test_the_same_seed_gives_the_same_bundle(tiny: BundleSpec, tmp_path: Path) -> None:
    again = random_bundle(tmp_path / "again", "tiny", seed=3)

    assert again.digest == tiny.digest


def test_a_tower_whose_norms_are_folded_says_the_same() -> None:
    from moderation.dfa.gpt.tower import Tower, TowerConfig, fold_batch_norms

    config = layout("tiny").vision
    assert isinstance(config, TowerConfig)
    tower = Tower(config).eval()
    for norm in (module for module in tower.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        cast("torch.Tensor", norm.running_mean).uniform_(-0.2, 0.2)
        cast("torch.Tensor", norm.running_var).uniform_(0.5, 2)
    pixels = torch.randn(2, 3, config.image_size, config.image_size)

    with torch.inference_mode():
        before = tower(pixels).last_hidden_state
        after = fold_batch_norms(tower)(pixels).last_hidden_state
    assert (before - after).abs().max() < 1e-4
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in tower.modules())
