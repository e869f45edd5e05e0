"""The bands of the index leave no near hash out, and what is said of two pictures says no more than it may."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.likeness import (
    BANDS,
    BITS,
    NEAR,
    Faces,
    bound,
    compare_faces,
    distance,
    from_hex,
    partner,
    to_bits,
    to_hex,
    word,
)

HASHES = st.integers(0, 2**BITS - 1)


def is_met(one: int, other: int) -> bool:
    """Whether the index meets `other` when it looks for `one`."""
    apart = [distance(word(one, band), word(other, band)) for band in BANDS]
    return any(
        apart[number] <= band.reach and apart[number] + apart[partner(number)] <= bound(number)
        for number, band in enumerate(BANDS)
    )


def test_the_bands_are_the_whole_hash_and_their_bounds_add_up() -> None:
    ends = [band.first + band.width for band in BANDS]

    assert [band.first for band in BANDS] == [0, *ends[:-1]]
    assert ends[-1] == BITS
    # The step that the proof rests on: were every pair further apart than its bound, so would be the hashes.
    assert sum(bound(number) + 1 for number in range(0, len(BANDS), 2)) > NEAR


@pytest.mark.slow
@given(HASHES, st.sets(st.integers(0, BITS - 1), max_size=NEAR))
@settings(max_examples=500, deadline=None)
def test_every_near_hash_is_met(one: int, flipped: set[int]) -> None:
    assert is_met(one, one ^ sum(1 << bit for bit in flipped))


def test_the_worst_case_is_met_and_one_bit_more_is_not() -> None:
    """Every band one bit beyond its reach, but for one pair with a bit less: the furthest that a near hash can hide."""
    beyond = [BITS - 1 - band.first - bit for band in BANDS for bit in range(band.reach + 1)]
    draw = random.Random(5)

    assert len(beyond) == NEAR + 1
    assert not is_met(0, sum(1 << bit for bit in beyond))
    for left_out in draw.sample(beyond, 12):
        assert is_met(0, sum(1 << bit for bit in beyond if bit != left_out))


@given(HASHES)
def test_a_hash_comes_back_from_its_digits(value: int) -> None:
    assert from_hex(to_hex(value)) == value
    assert int(to_bits(value), 2) == value
    assert len(to_bits(value)) == BITS


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("f" * 63, id="a digit short"),
        pytest.param("g" * 64, id="no digits"),
        pytest.param("0x" + "f" * 62, id="a prefix"),
        pytest.param("１" * 64, id="digits of another script"),
        pytest.param("_" * 64, id="underscores"),
    ],
)
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="digits"):
        from_hex(text)


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        pytest.param([0], [0b1111], (Faces.SAME, 4), id="the same pixels, saved again"),
        pytest.param([0], [2**11 - 1], (Faces.OTHER, 11), id="another face in the same picture"),
        pytest.param([0], [0b11111], (Faces.UNCLEAR, 5), id="between the two"),
        pytest.param([0, 0], [0, 2**30 - 1], (Faces.OTHER, 30), id="the second of two differs"),
        pytest.param([0, 0], [1], (Faces.SAME, 1), id="not as many: the largest of each"),
        pytest.param([], [0], (Faces.UNCLEAR, None), id="no face here"),
        pytest.param([], [], (Faces.UNCLEAR, None), id="no face in either"),
    ],
)
def test_faces_are_compared(ours: list[int], theirs: list[int], said: tuple[Faces, int | None]) -> None:
    assert compare_faces(ours, theirs) == said
