"""What stands aside for too long is closed by rule, where an installation says so, and nothing else is."""

from dataclasses import replace
from uuid import UUID

import pytest
from sqlalchemy import text

from moderation.accounts.accounts import Accounts
from moderation.analysis import Abstain, Label, Verdict
from moderation.cases import CaseState
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.database.review import decisions_of
from moderation.decisions import Outcome
from moderation.errors import SetupProblem
from moderation.people import RULE
from moderation.review import Review
from moderation.settings import Settings, settings
from tests.builders import an_analysis
from tests.integration.conftest import enrolled, ready, refused, stored
from tests.integration.deciding import a_review, decide

RULES = (("refused", 72.0), ("no_face", 24.0))


def _faceless(database: Database) -> UUID:
    nothing = Verdict(label=Label.UNDETERMINED, abstain=Abstain.NO_FACE)
    return ready(database, analysis=replace(an_analysis(), verdict=nothing, faces=()))


def _pass(database: Database, hours: float) -> None:
    with database.transaction() as session:
        session.execute(
            text("UPDATE cases SET ready_at = ready_at - make_interval(hours => :h)"), {"h": hours}
        )


def _rule(database: Database, settings: Settings) -> Review:
    return a_review(database, settings, close_aside_hours=RULES)


def test_what_stood_aside_for_too_long_is_closed_and_the_log_says_by_which_rule(
    database: Database, settings: Settings
) -> None:
    broken, no_face, shown = refused(database), _faceless(database), ready(database)
    _pass(database, 25)
    review = _rule(database, settings)

    assert review.close_by_rule() == 1
    assert stored(database, no_face).state is CaseState.DECIDED
    assert {stored(database, one).state for one in (broken, shown)} == {CaseState.READY}
    _pass(database, 48)
    assert review.close_by_rule() == 1
    assert review.close_by_rule() == 0

    assert stored(database, shown).state is CaseState.READY
    with database.transaction() as session:
        (decision,) = decisions_of(session, broken)
        chain = read_chain(session, broken)
    assert (decision.outcome, decision.reviewer_id, decision.seconds) == (Outcome.CANNOT_TELL, RULE, None)
    assert "72 hours" in (decision.reason or "")
    assert chain.broken_at is None
    assert (chain.events[-1].actor, chain.events[-1].body["rule"]) == ("rule", "refused after 72 h")


def test_by_default_nothing_is_closed(database: Database, settings: Settings) -> None:
    case_id = refused(database)
    _pass(database, 10_000)

    assert a_review(database, settings).close_by_rule() == 0
    assert stored(database, case_id).state is CaseState.READY


def test_what_somebody_has_before_them_is_left_to_them(database: Database, settings: Settings) -> None:
    case_id = refused(database)
    _pass(database, 100)
    review = _rule(database, settings)
    review.claim(enrolled(database), case_id)

    assert review.close_by_rule() == 0
    assert stored(database, case_id).state is CaseState.READY


def test_whoever_appeals_against_a_rule_is_answered_by_a_person(
    database: Database, settings: Settings
) -> None:
    case_id, ada = refused(database), enrolled(database)
    _pass(database, 100)
    review = _rule(database, settings)
    review.close_by_rule()

    review.appeal(case_id, "It opens here.", actor="platform:test")
    _pass(database, 1000)

    assert review.close_by_rule() == 0
    assert decide(review, database, ada, case_id, Outcome.BONA_FIDE).reviewer_id == ada.id


def test_the_rule_is_nobody_who_could_sign_in(database: Database, settings: Settings) -> None:
    refused(database)
    _pass(database, 100)
    _rule(database, settings).close_by_rule()

    assert Accounts(database, settings).list_people() == []


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("refused=72", (("refused", 72.0),)),
        (" no_face = 24 , refused=72", (("no_face", 24.0), ("refused", 72.0))),
        ("", ()),
    ],
)
def test_the_rule_is_written_as_pairs(monkeypatch: pytest.MonkeyPatch, written: str, read: object) -> None:
    monkeypatch.setenv("BONAFIDE_CLOSE_ASIDE_HOURS", written)
    settings.cache_clear()

    assert settings().close_aside_hours == read
    settings.cache_clear()


@pytest.mark.parametrize(
    "written", ["72", "refused", "refused=0", "refused=0.5", "deepfake=72", "refused=1,refused=2"]
)
def test_a_rule_that_cannot_be_meant_stops_the_process(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.setenv("BONAFIDE_CLOSE_ASIDE_HOURS", written)
    settings.cache_clear()

    with pytest.raises(SetupProblem, match="BONAFIDE_CLOSE_ASIDE_HOURS"):
        settings()
    settings.cache_clear()
