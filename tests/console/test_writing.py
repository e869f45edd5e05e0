"""What a person writes is stored as written, whole or not at all."""

import re
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from moderation.database.connection import Database
from moderation.database.questions import questions_of
from moderation.database.review import decisions_of
from moderation.people import Person
from moderation.settings import Settings
from tests.integration.conftest import ready
from tests.integration.deciding import a_review

WORDS = "می\u200cبینم « oui » 👩\u200d👩\u200d👧 🇺🇦 全角\u3000空白 שלום\u200e!"


def _decide(
    reviewer: TestClient, database: Database, settings: Settings, rosa: Person, **fields: str
) -> tuple[Any, UUID]:
    """The answer of the page, and the case."""
    case_id = ready(database)
    claim = a_review(database, settings).claim(rosa, case_id)
    csrf = re.search(r'name="csrf" value="([^"]+)"', reviewer.get("/queue").text)
    assert csrf is not None
    form = {"csrf": csrf[1], "token": str(claim.token), "version": str(claim.version), "outcome": "bona_fide"}
    return reviewer.post(f"/cases/{case_id}/decide", data={**form, **fields}), case_id


def test_a_reason_is_stored_as_it_was_written(
    reviewer: TestClient, database: Database, settings: Settings, rosa: Person
) -> None:
    _, case_id = _decide(reviewer, database, settings, rosa, reason=f" {WORDS}\r\n", policy=WORDS)

    with database.transaction() as session:
        (decision,) = decisions_of(session, case_id)
    assert (decision.reason, decision.policy) == (WORDS, WORDS)


def test_a_question_is_stored_as_it_was_written(reviewer: TestClient, database: Database) -> None:
    case_id = ready(database)
    csrf = re.search(r'name="csrf" value="([^"]+)"', reviewer.get("/queue").text)
    assert csrf is not None

    reviewer.post(f"/cases/{case_id}/ask", data={"csrf": csrf[1], "question": f"{WORDS}?"})

    with database.transaction() as session:
        assert [one.question for one in questions_of(session, case_id)] == [f"{WORDS}?"]


@pytest.mark.parametrize(("field", "at_most"), [("reason", 2000), ("policy", 200)])
def test_what_is_too_long_is_refused_whole_and_comes_back_whole(
    reviewer: TestClient, database: Database, settings: Settings, rosa: Person, field: str, at_most: int
) -> None:
    long = "🏴󠁧󠁢󠁳󠁣󠁴󠁿" * at_most

    reply, case_id = _decide(reviewer, database, settings, rosa, **{"reason": "because", field: long})

    assert reply.status_code == 422
    assert f"The {field} has {len(long):,} characters; at most {at_most:,} are kept." in reply.text
    assert long in reply.text
    with database.transaction() as session:
        assert decisions_of(session, case_id) == []


def test_no_field_cuts_what_is_pasted_into_it(reviewer: TestClient, database: Database) -> None:
    case_id = ready(database)

    for path in ("/queue", f"/cases/{case_id}", "/preferences", "/sign-in"):
        assert "maxlength" not in reviewer.get(path).text


def test_words_of_people_have_the_direction_of_their_script(
    reviewer: TestClient, database: Database, settings: Settings, rosa: Person
) -> None:
    _, case_id = _decide(reviewer, database, settings, rosa, reason=WORDS)

    page = reviewer.get(f"/cases/{case_id}").text

    assert f'<blockquote dir="auto">{WORDS}</blockquote>' in page
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM decisions")) == 1
