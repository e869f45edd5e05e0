"""The tower learns from what is known and only from that."""

from pathlib import Path

import numpy as np
import pytest
import torch

from moderation.analysis import Region, Technique
from moderation.dfa.gpt.bundle import MINI, BundleSpec, load_bundle, read_bundle
from moderation.dfa.gpt.tower import LITE0_STAGES, Tower, TowerConfig
from moderation.dfa.instruct.examples import Example, Examples
from moderation.dfa.train.mini import tower_of
from moderation.dfa.train.sight import (
    REGIONS,
    UNKNOWN,
    Heads,
    Learner,
    SightPlan,
    as_batch,
    load_sight,
    losses,
)
from moderation.errors import SetupProblem
from tests.dfa.drawn_faces import a_pool


def a_tower() -> Tower:
    stages = tuple((1, kernel, stride, 2, max(8, out // 8)) for _, kernel, stride, _, out in LITE0_STAGES)
    config = TowerConfig(
        hidden_size=16, patch_size=32, stem_channels=8, stages=stages, residual_channels=(8, 8, 8, 8)
    )
    return Tower(config)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    drawn, rng = Examples(a_pool(), "train"), np.random.default_rng(0)
    return [example for _ in range(6) for example in drawn.two(rng)]


def test_every_two_is_one_bona_fide_and_one_forged(examples: list[Example]) -> None:
    assert [example.deepfake for example in examples] == [False, True] * 6


def test_a_bona_fide_example_claims_nothing(examples: list[Example]) -> None:
    for example in examples[::2]:
        assert example.facts == ()
        assert example.grid is not None
        assert not example.grid.any()


def test_the_same_seed_draws_the_same_examples() -> None:
    pool = a_pool()

    once, again = (Examples(pool, "train").two(np.random.default_rng(4)) for _ in range(2))

    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
        assert one.facts == other.facts


def test_a_technique_can_be_left_out() -> None:
    drawn, rng = Examples(a_pool(), "train", without=("FS", "FE", "FR")), np.random.default_rng(0)

    techniques = {drawn.two(rng)[1].technique for _ in range(12)}

    assert techniques == {Technique.EFS}


def test_what_is_not_known_costs_nothing(examples: list[Example]) -> None:
    unknown = Example(examples[1].pixels, True, None, None, None, "dfdc_faces224", "g")
    batch = as_batch([examples[0], unknown])
    torch.manual_seed(0)
    outputs = Heads(16).eval()(torch.randn(2, 49, 16))
    changed = tuple(output.clone() for output in outputs)
    changed[2][1] += 5  # what it says about regions and cells of the unknown picture
    changed[3][1] += 5

    before, after = losses(outputs, batch), losses((changed[0], changed[1], changed[2], changed[3]), batch)

    for name, value in before.items():
        assert value.item() == pytest.approx(after[name].item()), name
    assert batch.technique.tolist() == [UNKNOWN, UNKNOWN]


def test_regions_are_the_facts(examples: list[Example]) -> None:
    for example, row in zip(examples, as_batch(examples).regions, strict=True):
        if example.facts is not None:
            named = {REGIONS[index] for index in np.flatnonzero(row.numpy())}
            assert named == {touch.region for touch in example.facts}
            assert named <= set(Region)


def test_a_few_steps_lower_the_loss_and_a_checkpoint_brings_them_back(
    examples: list[Example], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    learner = Learner(a_tower(), SightPlan(rate=3e-3, stem_rate=3e-3, frozen_blocks=0))
    batch = as_batch(examples)

    totals = [sum(learner.step(batch, progress=0.0).values()) for _ in range(60)]
    learner.save(tmp_path, seconds=12.0, step=60)
    resumed = Learner(a_tower(), SightPlan(frozen_blocks=0))

    assert np.mean(totals[-5:]) < 0.8 * np.mean(totals[:5])
    assert resumed.resume(tmp_path) == (12.0, 60)
    tower, heads = load_sight(tmp_path, a_tower().config)
    with torch.inference_mode():
        tokens = tower(batch.pixels).last_hidden_state
        assert torch.isfinite(heads(tokens)[0]).all()


def test_frozen_blocks_stay_as_they_are(examples: list[Example]) -> None:
    tower = a_tower()
    before = {name: value.clone() for name, value in tower.stem.blocks[0].state_dict().items()}
    learner = Learner(tower, SightPlan(frozen_blocks=1))

    learner.step(as_batch(examples), progress=0.0)

    for name, value in tower.stem.blocks[0].state_dict().items():
        assert torch.equal(value, before[name])


def test_the_tower_of_a_bundle_goes_on_as_it_was() -> None:
    served = load_bundle(read_bundle(MINI), device=torch.device("cpu"), dtype=torch.float32)
    pixels = torch.rand(2, 3, 224, 224) * 2 - 1

    with torch.inference_mode():
        tokens = tower_of(MINI).eval()(pixels).last_hidden_state
        expected = served.model.model.vision_tower(pixels).last_hidden_state

    assert len([name for name, _ in tower_of(MINI).named_modules() if name.endswith("bn0")]) > 1
    torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=1e-3)


def test_another_tower_is_not_gone_on_with(tiny: BundleSpec) -> None:
    with pytest.raises(SetupProblem, match="another tower"):
        tower_of(tiny.folder)
