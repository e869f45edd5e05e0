"""Pairs of analyses as Postgres has them, after real reviewers decided."""

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from moderation.analysis import Label
from moderation.database.connection import Database
from moderation.decisions import Outcome
from moderation.intervals import Share
from moderation.people import Person
from moderation.review import Review
from moderation.rollouts.comparison import Pair, compare
from moderation.rollouts.comparison_rows import read_pairs
from moderation.settings import Settings
from tests.builders import a_verdict, bona_fide, undecided
from tests.integration.beside import NEW, OLD, both, said
from tests.integration.conftest import ready
from tests.integration.deciding import a_review, decide

DEEPFAKE, BONA_FIDE, CANNOT_TELL = Outcome.DEEPFAKE, Outcome.BONA_FIDE, Outcome.CANNOT_TELL


@pytest.fixture
def review(database: Database, settings: Settings) -> Review:
    return a_review(database, settings)


def pairs(database: Database, *, days: float = 1, at_most: int = 100) -> list[Pair]:
    until = datetime.now(UTC) + timedelta(seconds=5)
    with database.transaction() as session:
        return read_pairs(session, OLD, NEW, since=until - timedelta(days=days), until=until, at_most=at_most)


def test_a_case_that_both_analysed_is_a_pair_and_no_other(database: Database) -> None:
    case_id = both(database, a_verdict(score=0.9, calibrated=True), bona_fide(0.2))
    ready(database, analysis=said(a_verdict(), by=OLD))
    ready(database, analysis=said(a_verdict(), by=NEW))

    (found,) = pairs(database)

    assert found.case_id == case_id
    assert (found.first.label, found.first.score, found.first.calibrated) == (Label.DEEPFAKE, 0.9, True)
    assert (found.second.label, found.second.score, found.second.calibrated) == (Label.BONA_FIDE, 0.2, False)
    assert (found.first.seconds, found.second.seconds) == (0.2, 0.4)
    assert (found.decided, found.showed_first) == (None, False)


def test_the_key_that_held_other_bytes_meanwhile_is_no_pair(database: Database) -> None:
    both(database, a_verdict(), bona_fide(), of="before", also_of="after")

    assert pairs(database) == []


def test_a_decision_counts_once_it_stands(database: Database, settings: Settings, ada: Person) -> None:
    undoable, quick = a_review(database, settings, undo_seconds=60), a_review(database, settings)
    open_, taken_back, decided = (both(database, a_verdict(), bona_fide()) for _ in range(3))
    decide(undoable, database, ada, open_, DEEPFAKE)
    undoable.undo(ada, decide(undoable, database, ada, taken_back, DEEPFAKE).id)
    decide(quick, database, ada, decided, DEEPFAKE)

    found = {pair.case_id: (pair.decided, pair.showed_first, pair.showed_second) for pair in pairs(database)}

    assert found == {
        open_: (None, False, False),
        taken_back: (None, False, False),
        decided: (DEEPFAKE, True, False),
    }


def test_after_an_appeal_the_answer_counts_and_until_then_nothing(
    database: Database, review: Review, ada: Person, grace: Person
) -> None:
    answered, pending = (both(database, a_verdict(), bona_fide()) for _ in range(2))
    for case_id in (answered, pending):
        decide(review, database, ada, case_id, DEEPFAKE)
        review.appeal(case_id, "it is I", actor="platform:test")
    decide(review, database, grace, answered, BONA_FIDE)

    found = {pair.case_id: pair.decided for pair in pairs(database)}

    assert found == {answered: BONA_FIDE, pending: None}


def test_what_was_judged_blind_is_read_too(database: Database, settings: Settings, ada: Person) -> None:
    blind = a_review(database, settings, blind_first_share=1.0)
    decide(blind, database, ada, both(database, a_verdict(), bona_fide()), DEEPFAKE, blind=BONA_FIDE)

    (found,) = pairs(database)

    assert (found.decided, found.blind) == (DEEPFAKE, BONA_FIDE)


def test_the_newest_cases_are_read_and_only_those_of_the_period(database: Database) -> None:
    cases = [both(database, a_verdict(), bona_fide()) for _ in range(3)]

    assert [pair.case_id for pair in pairs(database)] == cases[::-1]
    assert [pair.case_id for pair in pairs(database, at_most=2)] == [cases[2], cases[1]]
    with database.transaction() as session:
        before = datetime.now(UTC) - timedelta(days=1)
        assert read_pairs(session, OLD, NEW, since=before - timedelta(days=1), until=before) == []


def test_the_whole_way_from_rows_to_numbers(database: Database, review: Review, ada: Person) -> None:
    decide(review, database, ada, both(database, a_verdict(score=0.9), bona_fide(0.1)), BONA_FIDE)
    decide(review, database, ada, both(database, a_verdict(score=0.9), a_verdict(score=0.8)), DEEPFAKE)
    decide(review, database, ada, both(database, undecided(score=0.5), bona_fide(0.1)), CANNOT_TELL)

    seen = compare(pairs(database))

    assert (seen.n, seen.agreed) == (3, Share(1, 3))
    assert (seen.decided.first_overturned, seen.decided.second_overturned) == (Share(1, 2), Share(0, 2))
    assert dataclasses.astuple(seen.decided.right) == (2, 0, 1)
    assert seen.speed.ratio is not None
    assert seen.speed.ratio.value == pytest.approx(2.0)
