"""Two bundles side by side, on pairs that are written down; every expected number is counted by hand."""

import hashlib
from uuid import UUID

import pytest

from moderation.analysis import Label
from moderation.decisions import Outcome
from moderation.intervals import Share
from moderation.rollouts.comparison import BARS, LISTED, BundleVerdict, Pair, compare
from tests.builders import new_id

DEEPFAKE, BONA_FIDE, UNDETERMINED = Label.DEEPFAKE, Label.BONA_FIDE, Label.UNDETERMINED


def said(
    label: Label, score: float | None = 0.5, *, calibrated: bool = True, seconds: float | None = 0.2
) -> BundleVerdict:
    return BundleVerdict(label, score, calibrated, seconds)


def pair(
    first: BundleVerdict,
    second: BundleVerdict,
    *,
    decided: Outcome | None = None,
    blind: Outcome | None = None,
    image: str | None = None,
    case_id: UUID | None = None,
    showed: str = "first",
) -> Pair:
    case_id = case_id or new_id()
    return Pair(
        case_id,
        hashlib.sha256((image or case_id.hex).encode()).digest(),
        first,
        second,
        decided,
        blind,
        showed_first=decided is not None and showed == "first",
        showed_second=decided is not None and showed == "second",
    )


def test_of_nothing_there_is_nothing_to_say() -> None:
    seen = compare([])

    assert (seen.n, seen.agreed, seen.disagreements) == (0, Share(0, 0), ())
    assert (seen.shift.mean, seen.shift.median, seen.speed.ratio) == (None, None, None)
    assert seen.decided.right.mid_p is None
    assert len(seen.table) == 9


def test_labels_are_counted_against_each_other() -> None:
    seen = compare(
        [
            *(pair(said(DEEPFAKE), said(DEEPFAKE)) for _ in range(3)),
            *(pair(said(BONA_FIDE), said(BONA_FIDE)) for _ in range(4)),
            *(pair(said(BONA_FIDE), said(DEEPFAKE)) for _ in range(2)),
            pair(said(UNDETERMINED), said(BONA_FIDE)),
        ]
    )

    assert seen.agreed == Share(7, 10)
    assert seen.table[DEEPFAKE, DEEPFAKE] == 3
    assert seen.table[BONA_FIDE, DEEPFAKE] == 2
    assert seen.table[DEEPFAKE, BONA_FIDE] == 0
    assert sum(seen.table.values()) == seen.n == 10
    assert (seen.first_abstained, seen.second_abstained) == (Share(1, 10), Share(0, 10))
    assert seen.disagreed == 3


def test_a_picture_counts_once_and_with_its_decision() -> None:
    twice = [
        pair(said(DEEPFAKE), said(BONA_FIDE), image="same"),
        pair(said(DEEPFAKE), said(BONA_FIDE), image="same", decided=Outcome.DEEPFAKE),
        pair(said(DEEPFAKE), said(BONA_FIDE), image="same"),
    ]

    seen = compare(twice)

    assert seen.n == 1
    assert seen.disagreements == (twice[1],)
    assert seen.decided.right.only_first == 1


def test_scores_shift_by_what_the_second_adds() -> None:
    seen = compare(
        [
            pair(said(DEEPFAKE, 0.9), said(DEEPFAKE, 0.95)),
            pair(said(DEEPFAKE, 0.8), said(BONA_FIDE, 0.3, calibrated=False)),
            pair(said(BONA_FIDE, 0.0), said(DEEPFAKE, 1.0)),
            pair(said(UNDETERMINED, None), said(DEEPFAKE, 0.9)),
        ]
    )

    assert (seen.shift.n, seen.shift.calibrated) == (3, 2)
    assert seen.shift.mean is not None
    assert seen.shift.mean.value == pytest.approx((0.05 - 0.5 + 1.0) / 3)
    assert seen.shift.median is not None
    assert seen.shift.median.value == pytest.approx(0.05)
    # Bands of 2/21: 0.05 lies above the middle one, which ends at 1/21; −0.5 in the sixth; 1 in the last.
    assert {band: n for band, n in enumerate(seen.shift.bars) if n} == {5: 1, 11: 1, BARS - 1: 1}


def test_no_shift_lies_in_the_middle_bar() -> None:
    seen = compare([pair(said(DEEPFAKE, 0.7), said(DEEPFAKE, 0.7))])

    assert seen.shift.bars[BARS // 2] == 1


def test_speed_is_that_of_engines_that_ran() -> None:
    seen = compare(
        [
            pair(said(DEEPFAKE, seconds=0.1), said(DEEPFAKE, seconds=0.3)),
            pair(said(DEEPFAKE, seconds=0.2), said(DEEPFAKE, seconds=0.2)),
            pair(said(DEEPFAKE, seconds=0.4), said(DEEPFAKE, seconds=0.8)),
            pair(said(DEEPFAKE, seconds=None), said(DEEPFAKE, seconds=9.0)),  # repeats another analysis
            pair(said(DEEPFAKE, seconds=0.0), said(DEEPFAKE, seconds=0.1)),  # too quick to be a divisor
        ]
    )

    assert (seen.speed.first.n, seen.speed.second.n, seen.speed.of) == (4, 5, 3)
    assert seen.speed.first.median is not None
    assert seen.speed.first.median.value == pytest.approx(0.15)
    assert seen.speed.ratio is not None
    assert seen.speed.ratio.value == pytest.approx(2.0)


def test_verdicts_are_held_against_what_people_decided() -> None:
    seen = compare(
        [
            pair(said(DEEPFAKE), said(DEEPFAKE), decided=Outcome.DEEPFAKE),
            pair(said(DEEPFAKE), said(DEEPFAKE), decided=Outcome.BONA_FIDE),
            pair(said(DEEPFAKE), said(BONA_FIDE), decided=Outcome.BONA_FIDE, showed="second"),
            pair(said(DEEPFAKE), said(BONA_FIDE), decided=Outcome.BONA_FIDE),
            pair(said(BONA_FIDE), said(DEEPFAKE), decided=Outcome.BONA_FIDE),
            pair(said(UNDETERMINED), said(DEEPFAKE), decided=Outcome.BONA_FIDE, showed="neither"),
            pair(said(DEEPFAKE), said(BONA_FIDE), decided=Outcome.CANNOT_TELL),  # settles nothing
            pair(said(DEEPFAKE), said(BONA_FIDE)),  # not decided
        ]
    )

    assert seen.decided.first_overturned == Share(3, 5)
    assert seen.decided.second_overturned == Share(3, 6)
    assert (seen.decided.right.n, seen.decided.right.only_first, seen.decided.right.only_second) == (5, 1, 2)
    assert (seen.showed_first, seen.showed_second) == (5, 1)
    assert seen.blind.right.n == 0


def test_what_was_said_before_a_verdict_was_shown_is_held_apart() -> None:
    led = [
        pair(said(DEEPFAKE), said(BONA_FIDE), decided=Outcome.DEEPFAKE, blind=Outcome.BONA_FIDE)
        for _ in range(6)
    ]

    seen = compare(led)

    assert seen.decided.first_overturned == Share(0, 6)
    assert seen.blind.first_overturned == Share(6, 6)
    assert (seen.decided.right.only_first, seen.blind.right.only_second) == (6, 6)
    assert seen.blind.right.exact_p == pytest.approx(2 / 64)


def test_the_largest_shift_is_listed_first_and_one_without_a_score_last() -> None:
    small = pair(said(DEEPFAKE, 0.6), said(BONA_FIDE, 0.4))
    large = pair(said(BONA_FIDE, 0.1), said(DEEPFAKE, 0.95))
    none = pair(said(UNDETERMINED, None), said(DEEPFAKE, 0.95))
    same = pair(said(DEEPFAKE, 0.6), said(DEEPFAKE, 1.0))

    seen = compare([none, small, same, large])

    assert seen.disagreements == (large, small, none)
    assert seen.disagreed == 3


def test_a_long_list_ends() -> None:
    seen = compare(pair(said(DEEPFAKE), said(BONA_FIDE)) for _ in range(LISTED + 1))

    assert (seen.disagreed, len(seen.disagreements)) == (LISTED + 1, LISTED)
