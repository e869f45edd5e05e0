"""A tower learns to see from what is known and only from that, alone or shared by processes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moderation.analysis import Label, Region, Technique
from moderation.dfa.gpt.heads import REGIONS, Heads, Seen
from moderation.dfa.gpt.layouts import random_bundle
from moderation.dfa.instruct.examples import Example, Examples, changed, facts_of_pair
from moderation.dfa.instruct.pool import open_pool
from moderation.dfa.instruct.sources import SHIPPED
from moderation.dfa.train.sight import (
    UNKNOWN,
    Batch,
    Sight,
    SightPlan,
    as_pixels,
    as_tensors,
    load_sight,
    losses,
    train_sight,
)
from moderation.errors import SetupProblem
from tests.dfa.drawn_faces import a_pool, a_portrait, write_pool

PLAN = SightPlan(steps=2, twos=8, loaders=0, warmup=1, save_every=2, known=64)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("base"), "small-tiny").folder


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pool(a_pool(), tmp_path_factory.mktemp("pool"))


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    drawn, rng = Examples(a_pool(), "train"), np.random.default_rng(0)
    return [example for _ in range(6) for example in drawn.two(rng)]


def a_batch(examples: list[Example]) -> Batch:
    fields = as_tensors(examples)
    fields.pop("pixels")
    return Batch(pixels=as_pixels([example.pixels for example in examples]), **fields)


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


def test_a_technique_and_a_source_can_be_left_out() -> None:
    rng = np.random.default_rng(0)
    drawn = Examples(a_pool(), "train", without=("lab/FS", "lab/FE", "lab/FR", "congress_portraits"))

    twos = [drawn.two(rng) for _ in range(12)]

    assert {forged.technique for _, forged in twos} == {Technique.EFS}
    assert not any("congress" in each.origin for two in twos for each in two)


def test_a_pool_of_bona_fide_pictures_that_nothing_can_be_made_of_is_refused() -> None:
    everything = tuple(f"lab/{technique}" for technique in Technique)

    with pytest.raises(SetupProblem):
        Examples(a_pool(), "train", without=(*everything, "ifg_gan_faces"))


def test_every_kind_of_two_names_its_faces() -> None:
    kinds = SHIPPED.kinds

    assert {kind.name for kind in kinds} >= {"lab", "dfdc"}
    for kind in kinds:
        assert kind.share > 0
        assert bool(kind.lab) == (kind.forged is None), kind.name
        assert kind.forged is None or kind.paired or kind.beside, kind.name


def test_an_aligned_pair_gives_the_mask_and_the_regions_by_difference() -> None:
    target = a_portrait(3)
    after = target.pixels.copy()
    x, y = (int(value) for value in target.face.place([(56, 93)])[0])
    after[y - 20 : y + 20, x - 40 : x + 40] = 255 - after[y - 20 : y + 20, x - 40 : x + 40]

    mask, facts = changed(target.pixels, after), facts_of_pair(target, after)

    assert facts[0].region is Region.MOUTH
    assert mask[y, x] > 0.9
    assert mask[:60].max() < 0.05


def test_what_is_not_known_costs_nothing(examples: list[Example]) -> None:
    unknown = Example(examples[1].pixels, True, None, None, None, "dfdc_faces224", "g")
    batch = a_batch([examples[0], unknown])
    torch.manual_seed(0)
    seen = Heads(2, 16).eval()(torch.randn(2, 197, 2, 16))
    regions, grid = seen.regions.clone(), seen.grid.clone()
    regions[1] += 5  # what it says about regions and places of the unknown picture
    grid[1] += 5

    before, after = losses(seen, batch), losses(replace(seen, regions=regions, grid=grid), batch)

    for name, value in before.items():
        assert value.item() == pytest.approx(after[name].item()), name
    assert batch.technique.tolist() == [UNKNOWN, UNKNOWN]


def test_regions_are_the_facts(examples: list[Example]) -> None:
    for example, row in zip(examples, as_tensors(examples)["regions"], strict=True):
        if example.facts is not None:
            named = {REGIONS[index] for index in np.flatnonzero(row.numpy())}
            assert named == {touch.region for touch in example.facts}


def test_the_order_within_a_two_is_what_costs(examples: list[Example]) -> None:
    def order(verdicts: list[float]) -> float:
        """Bona fide, forged, bona fide, forged."""
        nothing = Seen(
            grid=torch.zeros(4, 196),
            foreign=torch.zeros(4, 4),
            patches=torch.zeros(4, 4),
            regions=torch.zeros(4, 9),
            kinds=torch.zeros(4, 9, 8),
            strengths=torch.zeros(4, 9),
            verdict=torch.tensor(verdicts),
            local=torch.zeros(4),
            technique=torch.zeros(4, 4),
            features=torch.eye(4),
        )
        return losses(nothing, a_batch(examples[:4]))["order"].item()

    assert order([0.0, 1, 5, 6]) == pytest.approx(order([-3.0, -2, 0, 1]))
    assert order([0.0, 1, 5, 6]) < order([1.0, 0, 6, 5])


def test_only_norms_and_heads_learn(base: Path) -> None:
    learnt = set(Sight(base).learnt())

    assert any("layer_norm1" in name for name in learnt)
    assert all("norm" in name or "layrnorm" in name or name.startswith("heads.") for name in learnt)


def test_a_finished_tower_looks_twice_and_its_first_look_stays_what_speech_is_taught(base: Path) -> None:
    sight = Sight(base).eval()
    for weight in (sight.heads.verdict, sight.heads.judgement.weight):
        torch.nn.init.normal_(weight)
    picture = a_portrait(1, 224).pixels
    around = picture.copy()
    around[:32] = 255 - around[:32]  # outside the close-up

    with torch.inference_mode():
        once = sight(as_pixels([picture]))
        sight.look_closer()
        twice, elsewhere = (sight(as_pixels([each])) for each in (picture, around))

    assert twice.verdict == pytest.approx(once.verdict)
    assert twice.local != pytest.approx(once.local, abs=1e-4)
    assert (twice.features - once.features).norm() > 1e-3
    assert (twice.features - elsewhere.features).norm() > 1e-3
    torch.testing.assert_close(twice.grid, once.grid)


def test_a_run_lowers_the_loss_and_one_that_broke_goes_on_to_the_same_end(
    base: Path, pool: Path, tmp_path: Path
) -> None:
    plan = replace(PLAN, steps=8, twos=4, rate=1e-2, head_rate=1e-2, verdict_rate=2e-2)

    whole = train_sight(base, pool, tmp_path / "whole", plan)
    _broken_after(4, base, pool, tmp_path / "broken", plan)
    rest = train_sight(base, pool, tmp_path / "broken", plan)

    told = [json.loads(line) for line in (tmp_path / "whole/sight.jsonl").read_text().splitlines()]
    # That of the regions: a verdict needs more than eight steps from a tower of random weights.
    assert np.mean([each["regions"] for each in told[-2:]]) < 0.8 * told[0]["regions"]
    for name, value in whole.learnt().items():
        torch.testing.assert_close(rest.learnt()[name], value, rtol=2e-2, atol=2e-3, msg=name)
    with torch.inference_mode():
        seen = load_sight(base, tmp_path / "whole")(as_pixels([a_portrait(1, 224).pixels]))
    assert torch.isfinite(seen.verdict).all()
    assert seen.features.norm().item() == pytest.approx(1, abs=1e-3)


def test_the_layers_of_a_run_are_read_by_whoever_loads_it_or_goes_on_from_it(
    base: Path, pool: Path, tmp_path: Path
) -> None:
    plan = replace(PLAN, steps=1, twos=4)
    first = train_sight(base, pool, tmp_path / "first", replace(plan, layers=(1, 3)))
    after = train_sight(base, pool, tmp_path / "after", replace(plan, seed=1), after=tmp_path / "first")

    assert first.layers == after.layers == (1, 3)
    assert Sight(base).layers != (1, 3)
    assert load_sight(base, tmp_path / "after").layers == (1, 3)


def _broken_after(step: int, base: Path, pool: Path, out: Path, plan: SightPlan) -> None:
    """As a machine that goes away leaves it: the checkpoint of this step is the last thing written."""
    from moderation.dfa.train import sight

    class GoneError(Exception):
        pass

    save = sight._save

    def save_and_go(*args: object, **rest: object) -> None:
        save(*args, **rest)  # pyright: ignore[reportArgumentType]
        if rest["step"] == step:
            raise GoneError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sight, "_save", save_and_go)
        with pytest.raises(GoneError):
            train_sight(base, pool, out, plan)


def test_two_processes_give_the_losses_of_one(base: Path, pool: Path, tmp_path: Path) -> None:
    train_sight(base, pool, tmp_path / "one", PLAN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.dfa.train_in_two", str(base), str(pool), str(tmp_path / "two")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=_on_cpu())

    assert done.returncode == 0, done.stderr[-2000:]
    for one, two in zip(*(_told(tmp_path / name) for name in ("one", "two")), strict=True):
        for name, value in one.items():
            assert two[name] == pytest.approx(value, rel=2e-2, abs=2e-3), name


def _on_cpu() -> dict[str, str]:
    import os

    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def _told(folder: Path) -> Iterator[dict[str, float]]:
    for line in (folder / "sight.jsonl").read_text().splitlines():
        yield {name: value for name, value in json.loads(line).items() if name != "seconds"}


def test_a_batch_that_cannot_be_shared_is_refused(base: Path, pool: Path, tmp_path: Path) -> None:
    from unittest.mock import patch

    class Five:
        process_index, num_processes = 0, 5

    with (
        patch("moderation.dfa.train.sight.Accelerator", Five),
        pytest.raises(SetupProblem, match="5 processes"),
    ):
        train_sight(base, pool, tmp_path, PLAN)


def test_a_pool_is_read_back(pool: Path) -> None:
    rows = open_pool(pool).rows

    assert {row.label for row in rows} == set(Label) - {Label.UNDETERMINED}
