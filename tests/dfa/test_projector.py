"""A projector that pools: fewer visual tokens, from the same tower and the same weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moderation.dfa.gpt.bundle import BundleSpec, load_bundle, read_bundle, write_card
from moderation.dfa.gpt.engine.engine import visual_tokens
from moderation.dfa.gpt.layouts import random_bundle
from moderation.dfa.gpt.projector import mean_of_squares
from moderation.errors import BundleMismatch
from tests.dfa.conftest import copy_of

CPU = torch.device("cpu")


def pooling(spec: BundleSpec, folder: Path, side: int) -> BundleSpec:
    return write_card(replace(spec, folder=folder, image=replace(spec.image, pool=side)))


def test_squares_keep_their_order() -> None:
    patches = torch.arange(16.0).view(1, 16, 1)

    assert mean_of_squares(patches, 2)[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(mean_of_squares(patches, 1), patches)


@pytest.mark.parametrize("name", ["llava-1.5-tiny", "small-tiny"])
def test_a_pooled_token_is_the_projection_of_its_patches_mean(name: str, tmp_path: Path) -> None:
    whole = random_bundle(tmp_path / "whole", name, seed=5)
    pooled = pooling(whole, copy_of(whole, tmp_path / "pooled"), 2)
    pixels = torch.randn(2, 3, whole.image.size, whole.image.size)

    model = load_bundle(pooled, device=CPU, dtype=torch.float32).model
    single = int(model.config.vision_feature_select_strategy == "full")
    with torch.inference_mode():
        tokens = visual_tokens(model, pixels)
        projector = load_bundle(whole, device=CPU, dtype=torch.float32).model.model.multi_modal_projector
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        layers = model.config.vision_feature_layer
        read = torch.cat(
            [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)], dim=-1
        )
        corner = read[:, 1:].unflatten(1, (-1, round((read.shape[1] - 1) ** 0.5)))[:, :2, :2].mean(dim=(1, 2))
        wanted, alone = projector(corner), projector(read[:, 0])

    assert tokens.shape[1] == model.config.image_seq_length == single + (read.shape[1] - 1) // 4
    assert torch.allclose(tokens[:, single], wanted, atol=1e-5)
    if single:
        assert torch.allclose(tokens[:, 0], alone, atol=1e-5)


def test_the_pool_is_written_read_and_part_of_the_digest(scaled_llava: BundleSpec, tmp_path: Path) -> None:
    pooled = pooling(scaled_llava, copy_of(scaled_llava, tmp_path / "pooled"), 2)

    assert read_bundle(pooled.folder) == pooled
    assert pooled.digest != scaled_llava.digest


@pytest.mark.parametrize("side", [0, 3, -2])
def test_a_pool_that_does_not_fit_is_refused(side: int, scaled_llava: BundleSpec, tmp_path: Path) -> None:
    folder = copy_of(scaled_llava, tmp_path / "pooled")
    text = (folder / "bundle.toml").read_text()
    (folder / "bundle.toml").write_text(text.replace("[image]\n", f"[image]\npool = {side}\n"))

    with pytest.raises(BundleMismatch, match=r"image\.pool"):
        load_bundle(read_bundle(folder), device=CPU, dtype=torch.float32)


def reading(bundle: BundleSpec, folder: Path, layers: list[int]) -> BundleSpec:
    return write_card(replace(bundle, folder=folder, image=replace(bundle.image, layers=tuple(layers))))


def test_the_layers_that_a_bundle_names_are_read_and_are_part_of_its_digest(tmp_path: Path) -> None:
    plain = random_bundle(tmp_path / "plain", "small-tiny", seed=5)
    other = reading(plain, copy_of(plain, tmp_path / "other"), [2, 1])
    assert read_bundle(other.folder) == other
    assert other.digest != plain.digest
    pixels = torch.randn(1, 3, plain.image.size, plain.image.size)

    model = load_bundle(other, device=CPU, dtype=torch.float32).model
    with torch.inference_mode():
        tokens = visual_tokens(model, pixels)
        states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        wanted = model.model.multi_modal_projector(torch.cat([states[2], states[1]], dim=-1))

    assert torch.allclose(tokens, wanted, atol=1e-5)


@pytest.mark.parametrize("layers", [[1], [1, 2, 2], [1, 99]])
def test_layers_that_the_tower_or_the_projector_lacks_are_refused(layers: list[int], tmp_path: Path) -> None:
    plain = random_bundle(tmp_path / "plain", "small-tiny", seed=5)
    other = reading(plain, copy_of(plain, tmp_path / "other"), layers)

    with pytest.raises(BundleMismatch, match=r"image\.layers"):
        load_bundle(other, device=CPU, dtype=torch.float32)
