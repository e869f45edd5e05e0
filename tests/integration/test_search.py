"""Cases are found by what people have in hand: and every way to them is one look into an index."""

import json
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event, text

from moderation.archive.erasure import erase_case
from moderation.cases import ImageRef
from moderation.database.connection import Database
from moderation.database.search import Search, SearchField, search_cases
from moderation.decisions import Outcome
from moderation.settings import Settings
from tests.builders import an_analysis
from tests.integration.conftest import accepted, enrolled, ready
from tests.integration.deciding import a_review, decide

KEY = "2026/11/a picture, of «her».jpg"


@pytest.fixture
def known(database: Database) -> UUID:
    """A case of which everything is known, and another beside it."""
    accepted(database, source="messages", external_id="other", image=ImageRef("flagged", "other.jpg"))
    return ready(
        database,
        source="profile-photos",
        external_id="upload-42",
        image=ImageRef("flagged", KEY),
        context={"user": {"name": "Zoë", "id": 4711}, "tags": ["a", "b"]},
    )


def _found(
    database: Database, said: str, field: SearchField | None = None, source: str | None = None
) -> list[UUID]:
    with database.transaction() as session:
        return list(search_cases(session, Search(said, field, source)))


def _sha256() -> str:
    return an_analysis().picture.sha256


@pytest.mark.parametrize(
    ("field", "said"),
    [
        pytest.param(SearchField.ID, "{id}", id="the whole id"),
        pytest.param(SearchField.ID, "{ID}", id="in capitals"),
        pytest.param(SearchField.ID, "{id:.13}", id="its beginning"),
        pytest.param(SearchField.ID, "{hex}", id="without dashes"),
        pytest.param(SearchField.ID, "{end}", id="the end that the console shows"),
        pytest.param(SearchField.EXTERNAL_ID, "upload-42", id="the platform's own id"),
        pytest.param(SearchField.EXTERNAL_ID, "  upload-42 ", id="with blanks around it"),
        pytest.param(SearchField.KEY, KEY, id="the key"),
        pytest.param(SearchField.KEY, f"s3://flagged/{KEY}", id="the key with its bucket"),
        pytest.param(SearchField.KEY, f"s3://flagged/{KEY}?versionId=7", id="as a case's place is written"),
        pytest.param(SearchField.SHA256, "{sha256}", id="the bytes"),
        pytest.param(SearchField.SHA256, "{sha256:.16}", id="as many digits of them as the page shows"),
        pytest.param(SearchField.SOURCE, "profile-photos", id="the source"),
        pytest.param(SearchField.CONTEXT, "Zoë", id="a text of the context"),
        pytest.param(SearchField.CONTEXT, "4711", id="a number of the context"),
        pytest.param(SearchField.CONTEXT, "b", id="a text in a list of the context"),
    ],
)
def test_a_case_is_found_by(database: Database, known: UUID, field: SearchField, said: str) -> None:
    said = said.format(
        id=str(known), ID=str(known).upper(), hex=known.hex, end=known.hex[-8:], sha256=_sha256()
    )

    assert _found(database, said, field) == [known]
    assert known in _found(database, said), "without saying what it is"
    assert _found(database, said, field, source="profile-photos") == [known]
    assert _found(database, said, field, source="messages") == []


@pytest.mark.parametrize(
    "said",
    [
        "",
        "   ",
        "nothing",
        "upload",
        "%",
        "_",
        "\x00",
        "zoë",
        "user",
        "47",
        "null",
        "1e999",
        "NaN",
        "ffffffff",
    ],
)
def test_what_is_nowhere_finds_nothing(database: Database, known: UUID, said: str) -> None:
    assert _found(database, said) == []
    for field in SearchField:
        assert _found(database, said, field) == []


def test_pages_hold_every_case_once_the_newest_first(database: Database) -> None:
    made = [
        accepted(database, source="messages", external_id=str(n), context={"of": "her"}) for n in range(5)
    ]

    for field, said in ((SearchField.SOURCE, "messages"), (SearchField.CONTEXT, "her"), (None, "her")):
        seen: list[UUID] = []
        while True:
            with database.transaction() as session:
                page = search_cases(
                    session, Search(said, field), older_than=seen[-1] if seen else None, limit=2
                )
            if not page:
                break
            seen += page
        assert seen == sorted(made, reverse=True)


def test_an_erased_case_is_found_by_its_id_alone(database: Database, settings: Settings, known: UUID) -> None:
    decide(a_review(database, settings), database, enrolled(database), known, Outcome.DEEPFAKE)
    with database.transaction() as session:
        assert erase_case(session, known, actor="operator")

    assert _found(database, str(known)) == [known]
    for said in ("upload-42", KEY, _sha256(), "Zoë", "erased"):
        assert _found(database, said) == []


@pytest.mark.parametrize(
    ("field", "index"),
    [
        (SearchField.ID, "cases_pkey"),
        (SearchField.ID, "cases_id_end"),
        (SearchField.EXTERNAL_ID, "cases_external_id"),
        (SearchField.KEY, "cases_key"),
        (SearchField.SHA256, "analyses_of_bytes"),
        (SearchField.SOURCE, "cases_source"),
        (SearchField.CONTEXT, "cases_context"),
    ],
)
def test_no_way_reads_all_of_history(database: Database, field: SearchField, index: str) -> None:
    said = "0123abcd" if field in (SearchField.ID, SearchField.SHA256) else "4711"
    asked: list[tuple[str, Any]] = []
    event.listen(
        database.engine,
        "before_cursor_execute",
        lambda _c, _k, statement, given, *_: asked.append((statement, given)),
    )

    with database.transaction() as session:
        search_cases(session, Search(said, field))
        ((statement, given),) = asked
        session.execute(text("SET LOCAL enable_seqscan = off"))
        explained = session.connection().exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", given)
        plan = json.dumps(explained.scalar_one())

    assert index in plan
    assert "Seq Scan" not in plan
