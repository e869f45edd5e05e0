"""A DFA-Instruct folder gives back the faces that were drawn for it."""

from pathlib import Path

import numpy as np
import pytest

from moderation.analysis import Technique
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.instruct.builder import build
from moderation.dfa.instruct.examples import Example, Examples
from moderation.dfa.instruct.stored import StoredTwos, twos_in
from moderation.errors import SetupProblem
from tests.dfa.drawn_faces import a_pool, write_pool

TWOS = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("instruct")
    build(a_pool(), out, load_prompts(2), split="train", twos=TWOS, seed=5)
    return out


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Example, Example]]:
    examples = Examples(a_pool(), "train")
    return [examples.two(np.random.default_rng([5, number])) for number in range(TWOS)]


@pytest.fixture(scope="module")
def stored(folder: Path) -> list[tuple[Example, Example]]:
    """Every two once, in the order in which they were drawn, as it was stored."""
    twos = StoredTwos(folder, "train")
    return [
        (twos._example(bona_fide, mirrored=False), twos._example(forged, mirrored=False))
        for bona_fide, forged in twos.entries
    ]


def test_what_is_known_comes_back(
    stored: list[tuple[Example, Example]], drawn: list[tuple[Example, Example]]
) -> None:
    for two, again in zip(drawn, stored, strict=True):
        for example, read in zip(two, again, strict=True):
            for name in ("deepfake", "technique", "origin", "group"):
                assert getattr(read, name) == getattr(example, name)
            assert (read.facts is None) == (example.facts is None)
            for one, other in zip(read.facts or (), example.facts or (), strict=True):
                assert (one.region, one.kind) == (other.region, other.kind)
                assert one.strength == pytest.approx(other.strength, abs=1e-3)


def test_pixels_and_masks_come_back_nearly(
    stored: list[tuple[Example, Example]], drawn: list[tuple[Example, Example]]
) -> None:
    for two, again in zip(drawn, stored, strict=True):
        for example, read in zip(two, again, strict=True):
            assert np.abs(read.pixels.astype(int) - example.pixels).mean() < 3
            assert (read.mask is None) == (example.mask is None)
            if read.mask is not None and example.mask is not None and example.technique is not Technique.EFS:
                np.testing.assert_allclose(read.mask, example.mask, atol=0.01)


def test_each_comes_once_before_one_comes_again(folder: Path, stored: list[tuple[Example, Example]]) -> None:
    twos = StoredTwos(folder, "train")
    kept = [bona_fide.pixels for bona_fide, _ in stored]

    for turn in (0, 1):
        came = [twos.number(number, 3)[0].pixels for number in range(turn * TWOS, (turn + 1) * TWOS)]
        places = [
            next(place for place, one in enumerate(kept) if same_or_mirrored(one, other)) for other in came
        ]
        assert sorted(places) == list(range(TWOS))


def same_or_mirrored(one: np.ndarray, other: np.ndarray) -> bool:
    return np.array_equal(one, other) or np.array_equal(one[:, ::-1], other)


def test_both_of_a_two_are_mirrored_with_their_masks(folder: Path) -> None:
    twos = StoredTwos(folder, "train")
    for two in twos.entries:
        for entry in two:
            one, other = (twos._example(entry, mirrored=mirrored) for mirrored in (False, True))
            np.testing.assert_array_equal(one.pixels[:, ::-1], other.pixels)
            if one.mask is not None and other.mask is not None:
                np.testing.assert_array_equal(one.mask[:, ::-1], other.mask)


def test_equal_numbers_give_equal_twos(folder: Path) -> None:
    once, again = (StoredTwos(folder, "train").number(4, 3) for _ in range(2))

    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)


def test_a_source_or_a_technique_of_the_lab_can_be_left_out(folder: Path) -> None:
    everything = StoredTwos(folder, "train").entries
    techniques = {forged.origin.split("/")[1] for _, forged in everything if forged.origin.startswith("lab/")}
    one = sorted(techniques)[0]

    fewer = StoredTwos(folder, "train", without=[f"lab/{one}", "congress_portraits"]).entries

    assert 0 < len(fewer) < len(everything)
    assert not any(forged.origin.startswith(f"lab/{one}/") for _, forged in fewer)
    assert not any(each.group.startswith("congress_portraits/") for two in fewer for each in two)


def test_a_folder_says_itself_how_it_draws(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    pool = write_pool(a_pool(), tmp_path / "pool")

    assert isinstance(twos_in(folder, "train"), StoredTwos)
    assert isinstance(twos_in(pool, "train"), Examples)
    with pytest.raises(SetupProblem):
        twos_in(tmp_path, "train")
    with pytest.raises(SetupProblem):
        twos_in(folder, "test")


def test_folders_that_were_put_together_are_refused(folder: Path, tmp_path: Path) -> None:
    manifest = (folder / "manifest.jsonl").read_text(encoding="utf-8")
    (tmp_path / "manifest.jsonl").write_text(manifest + manifest, encoding="utf-8")

    with pytest.raises(SetupProblem):
        StoredTwos(tmp_path, "train")
