"""A shift is found, and where nothing shifts the chance of an alarm is what it was said to be."""

import numpy as np
import pytest

from moderation.evidence.drift import ENOUGH, doubt_of, expected_psi, look, psi

Case = dict[str, float | None]


def cases(draw: np.random.Generator, n: int, *, shift: float = 0.0, missing: float = 0.0) -> list[Case]:
    margins, sizes = draw.normal(shift, 1, n), draw.lognormal(12, 1, n)
    absent = draw.random(n) < missing
    return [
        {"margin": None if gone else float(margin), "bytes": float(size)}
        for margin, size, gone in zip(margins, sizes, absent, strict=True)
    ]


def test_p_values_of_samples_that_do_not_differ_are_even() -> None:
    """Of 200 looks at the same traffic, about a fifth have p below .2; more than 3 deviations more would be wrong."""
    draw = np.random.default_rng(1)
    found = [look("s", cases(draw, 120), cases(draw, 100), doubt=0.2, seed=turn).alarm for turn in range(200)]

    assert sum(found) / 200 < 0.2 + 3 * (0.2 * 0.8 / 200) ** 0.5


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"shift": 0.8}, id="the model is less sure"),
        pytest.param({"missing": 0.3}, id="more often there is no margin"),
    ],
)
def test_a_shift_is_an_alarm_with_its_place_and_examples(changed: dict[str, float]) -> None:
    draw = np.random.default_rng(2)

    found = look("s", cases(draw, 600), cases(draw, 300, **changed), doubt=doubt_of(5), seed=1)

    assert found.alarm
    assert len(found.examples) == 5
    if "shift" in changed:
        assert found.shifted[0].name == "margin"
        assert found.shifted[0].psi > 5 * found.shifted[0].expected


def test_few_cases_say_nothing() -> None:
    draw = np.random.default_rng(3)

    found = look("s", cases(draw, 600), cases(draw, ENOUGH - 1, shift=5), doubt=0.5, seed=1)

    assert (found.p, found.alarm) == (None, False)


def test_the_same_cases_give_the_same_answer() -> None:
    draw = np.random.default_rng(4)
    before, late = cases(draw, 200), cases(draw, 200)

    assert look("s", before, late, doubt=0.01, seed=9) == look("s", before, late, doubt=0.01, seed=9)


def test_psi_is_small_where_nothing_shifts_and_is_about_what_is_expected() -> None:
    draw = np.random.default_rng(5)
    values = [psi(draw.normal(size=1000), draw.normal(size=1000)) for _ in range(200)]

    assert np.mean(values) == pytest.approx(expected_psi(1000, 1000), rel=0.15)
    assert psi(draw.normal(size=1000), draw.normal(1, 1, size=1000)) > 0.5
