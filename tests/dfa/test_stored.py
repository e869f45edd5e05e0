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


class Chosen:
    """Random numbers that were chosen: a two, and whether it is mirrored."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)

    def integers(self, _: int) -> int:
        return self.numbers.pop(0)


def read(folder: Path, number: int, *, mirrored: bool) -> tuple[Example, Example]:
    return StoredTwos(folder, "train").two(Chosen(number, mirrored))  # type: ignore[arg-type]


def test_what_is_known_comes_back(folder: Path, drawn: list[tuple[Example, Example]]) -> None:
    for number, two in enumerate(drawn):
        for stored, example in zip(read(folder, number, mirrored=False), two, strict=True):
            for name in ("deepfake", "technique", "origin", "group"):
                assert getattr(stored, name) == getattr(example, name)
            assert (stored.facts is None) == (example.facts is None)
            for one, other in zip(stored.facts or (), example.facts or (), strict=True):
                assert (one.region, one.kind) == (other.region, other.kind)
                assert one.strength == pytest.approx(other.strength, abs=1e-3)


def test_pixels_and_masks_come_back_nearly(folder: Path, drawn: list[tuple[Example, Example]]) -> None:
    for number, two in enumerate(drawn):
        for stored, example in zip(read(folder, number, mirrored=False), two, strict=True):
            assert np.abs(stored.pixels.astype(int) - example.pixels).mean() < 3
            assert (stored.mask is None) == (example.mask is None)
            if (
                stored.mask is not None
                and example.mask is not None
                and example.technique is not Technique.EFS
            ):
                np.testing.assert_allclose(stored.mask, example.mask, atol=0.01)


def test_both_of_a_two_are_mirrored_with_their_masks(folder: Path) -> None:
    for number in range(TWOS):
        plain, mirrored = (read(folder, number, mirrored=each) for each in (False, True))
        for one, other in zip(plain, mirrored, strict=True):
            np.testing.assert_array_equal(one.pixels[:, ::-1], other.pixels)
            if one.mask is not None and other.mask is not None:
                np.testing.assert_array_equal(one.mask[:, ::-1], other.mask)


def test_equal_numbers_draw_equal_twos(folder: Path) -> None:
    once, again = (StoredTwos(folder, "train").two(np.random.default_rng(3)) for _ in range(2))

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
