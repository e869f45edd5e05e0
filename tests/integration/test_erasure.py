"""Erasure and retention: no text of a case is left anywhere, and the log of its events still verifies."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import TextClause, text
from sqlalchemy.orm import Session

from moderation.archive.erasure import PAST, PAST_OF_OTHERS, Kept, cases_past, erase_case, erase_past
from moderation.cases import CaseState, ImageRef
from moderation.database import schema
from moderation.database.analyses import shown_analyses
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.database.questions import (
    HeldQuestion,
    Question,
    begin_question,
    insert_question,
    questions_of,
    record_answer,
)
from moderation.database.tables import Table
from moderation.decisions import Outcome
from moderation.dispatch import Publisher
from moderation.errors import TransitionRefused
from moderation.local import Addresses, as_role
from moderation.questions import FAILURES, Questions
from moderation.review import Review
from moderation.settings import Settings
from tests.builders import a_face_analysis, a_map, an_analysis, an_artifact, an_effect, new_id
from tests.conftest import fresh_database
from tests.integration.conftest import accepted, enrolled, ready, stored
from tests.integration.deciding import a_review, decide

#: In every text that anybody wrote about the case.
MARK = "Marguerite"


_STATEMENTS = (
    "UPDATE cases SET state = 'decided', decided_at = now(), version = version + 1 WHERE id = :case",
    (
        "INSERT INTO events (case_id, kind, actor, body, seq, previous, hash)"
        " VALUES (:case, 'decided', 'reviewer:x', '{}', 0, '', '')"
    ),
    (
        "INSERT INTO decisions (id, case_id, stage, outcome, reason, policy, person_id, saw_verdict_first, final_at)"
        " VALUES (:d, :case, 'first', 'bona_fide', :mark, :mark, :person, true, now())"
    ),
    (
        "INSERT INTO appeals (id, case_id, decision_id, reason, appellant, external_id)"
        " VALUES (:a, :case, :d, :mark, 'platform:x', :mark)"
    ),
    (
        "INSERT INTO questions (id, case_id, asked_by, question, answer, answered_at)"
        " VALUES (:q, :case, 'platform:x', :mark, :mark, now())"
    ),
    "INSERT INTO skips (id, case_id, person_id, reason) VALUES (:q, :case, :person, :mark)",
    (
        "INSERT INTO evidence (case_id, gatherer, facts, seconds)"
        " VALUES (:case, '1', jsonb_build_array(jsonb_build_object('kind', 'software', 'status', 'found', 'strength',"
        " 'declared', 'points_to', NULL, 'data', jsonb_build_object('name', CAST(:mark AS text)))), 0)"
    ),
)


def _decided(database: Database, *, source: str = "profile-photos") -> UUID:
    """A case that was decided, appealed and decided again, with a text in every place that takes one."""
    face = a_face_analysis(
        rationale=(an_artifact(heading=f"{MARK}'s mouth", text=f"{MARK} is blurred"),), reply=f"1. {MARK}"
    )
    case_id = ready(
        database,
        analysis=an_analysis(faces=(face,)),
        source=source,
        image=ImageRef("flagged", f"{MARK}.jpg", f"{MARK}-1"),
        external_id=f"{MARK}-{new_id()}",
        reason=f"{MARK} says so",
        context={"uploader": MARK},
        idempotency_key=f"{MARK}-{new_id()}",
    )
    person = enrolled(database, f"Ada-{new_id()}")
    with database.transaction() as session:
        values = {
            "case": case_id,
            "person": person.id,
            "mark": MARK,
            "d": new_id(),
            "q": new_id(),
            "a": new_id(),
        }
        for statement in _STATEMENTS:
            session.execute(text(statement), values)
    return case_id


def _places(database: Database) -> list[str]:
    """The tables in which the mark is found."""
    with database.transaction() as session:
        return [
            table.name
            for table in Table.metadata.sorted_tables
            if session.scalar(text(f"SELECT count(*) FROM {table.name} t WHERE t::text LIKE '%{MARK}%'"))
        ]


_REFUSED = text("UPDATE cases SET refusal_code = 'image_missing', refusal_message = :message")


def test_the_map_of_a_face_goes_and_what_was_measured_of_its_artifacts_stays(database: Database) -> None:
    face = a_face_analysis(rationale=(an_artifact(effect=an_effect()),), foreign=a_map())
    case_id = ready(database, analysis=an_analysis(faces=(face,)))
    with database.transaction() as session:
        for statement in _STATEMENTS[:2]:
            session.execute(text(statement), {"case": case_id})

        assert erase_case(session, case_id, actor="operator")

    with database.transaction() as session:
        (seen,) = shown_analyses(session, [case_id])[case_id].analysis.faces
    assert seen.foreign is None
    assert seen.face.landmarks is None
    assert seen.rationale[0].effect == an_effect()


def test_no_text_is_left_and_the_chain_still_holds(database: Database) -> None:
    case_id = _decided(database)
    with database.transaction() as session:
        session.execute(_REFUSED, {"message": f"s3://flagged/{MARK}.jpg is not there: NoSuchKey"})
    before = _places(database)
    with database.transaction() as session:
        events = read_chain(session, case_id)

    with database.transaction() as session:
        assert erase_case(session, case_id, actor="operator")

    assert {
        "cases",
        "analyses",
        "artifacts",
        "decisions",
        "appeals",
        "questions",
        "skips",
        "evidence",
    } <= set(before)
    assert _places(database) == []
    with database.transaction() as session:
        assert read_chain(session, case_id) == events
    assert events.broken_at is None
    assert stored(database, case_id).flag.image.key == "erased"


def test_the_verdict_and_the_decision_stay(database: Database) -> None:
    case_id = _decided(database)

    with database.transaction() as session:
        erase_case(session, case_id, actor="operator")
        outcome = session.scalar(text("SELECT outcome FROM decisions WHERE case_id = :id"), {"id": case_id})
        label = session.scalar(text("SELECT label FROM analyses WHERE case_id = :id"), {"id": case_id})

    assert (outcome, label) == ("bona_fide", "deepfake")


def test_a_case_is_erased_once_and_only_when_it_is_decided(database: Database) -> None:
    waiting, decided = accepted(database), _decided(database)

    with database.transaction() as session:
        assert not erase_case(session, waiting, actor="operator")
        assert not erase_case(session, new_id(), actor="operator")
        assert erase_case(session, decided, actor="operator")
        assert not erase_case(session, decided, actor="operator")


#: Something to be told of every case.
_TELL = (
    "INSERT INTO endpoints (id, url, kinds, secrets) VALUES (:endpoint, 'https://x.example', '{}', '{}')",
    (
        "INSERT INTO deliveries (id, endpoint_id, case_id, kind, body)"
        " SELECT gen_random_uuid(), :endpoint, id, 'case.decided', CAST(:body AS jsonb) FROM cases"
    ),
)
_DISABLE = text("UPDATE endpoints SET disabled_at = now()")


def _tell(database: Database) -> None:
    values = {"endpoint": new_id(), "body": f'{{"type": "{MARK}"}}'}
    with database.transaction() as session:
        for statement in _TELL:
            session.execute(text(statement), values)


def test_what_a_platform_is_still_to_be_told_comes_first(database: Database) -> None:
    case_id = _decided(database)
    _tell(database)
    with database.transaction() as session:
        assert not erase_case(session, case_id, actor="operator")

    with database.transaction() as session:
        session.execute(text("UPDATE deliveries SET delivered_at = now()"))
        assert erase_case(session, case_id, actor="operator")
    assert _places(database) == []


def test_what_nobody_will_be_told_holds_no_erasure_up(database: Database) -> None:
    case_id = _decided(database)
    _tell(database)
    with database.transaction() as session:
        session.execute(_DISABLE)

    with database.transaction() as session:
        assert erase_case(session, case_id, actor="operator")

    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM deliveries")) == 0  # nor sent without words later


#: What an endpoint answered, in part what it was sent, until it was given up.
_REPEATED = text("UPDATE deliveries SET dead_at = now(), last_status = 422, last_error = :answer")


def test_what_a_receiver_repeated_is_erased_too(database: Database) -> None:
    case_id = _decided(database)
    _tell(database)
    with database.transaction() as session:
        session.execute(_REPEATED, {"answer": f"no user {MARK}"})

    with database.transaction() as session:
        assert erase_case(session, case_id, actor="operator")

    assert _places(database) == []
    with database.transaction() as session:
        assert session.execute(text("SELECT last_status, last_error FROM deliveries")).all() == [(422, None)]


def test_what_earlier_releases_left_of_a_receivers_answer_goes_with_the_schema(database: Database) -> None:
    erased, kept = _decided(database), _decided(database)
    _tell(database)
    with database.transaction() as session:
        session.execute(_REPEATED, {"answer": f"no user {MARK}"})
    schema.downgrade(database, "0004")
    with database.transaction() as session:
        assert erase_case(session, erased, actor="operator")

    schema.upgrade(database)

    left = text("SELECT case_id FROM deliveries WHERE last_error IS NOT NULL")
    with database.transaction() as session:
        assert session.scalars(left).all() == [kept]


def test_a_decision_that_can_still_be_undone_is_not_erased(database: Database, settings: Settings) -> None:
    review, ada = a_review(database, settings, undo_seconds=600.0), enrolled(database)
    case_id = ready(database)
    decision = decide(review, database, ada, case_id, Outcome.BONA_FIDE)

    with database.transaction() as session:
        assert not erase_case(session, case_id, actor="operator")

    review.undo(ada, decision.id)
    case = stored(database, case_id)
    assert (case.state, case.erased_at) == (CaseState.READY, None)


def test_two_erased_cases_are_not_the_same_picture(database: Database) -> None:
    with database.transaction() as session:
        for case_id in (_decided(database), _decided(database)):
            assert erase_case(session, case_id, actor="operator")

        assert session.scalar(text("SELECT count(DISTINCT image_sha256) FROM analyses")) == 2


def test_the_word_that_opens_erasing_opens_nothing_to_others(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("GRANT UPDATE ON decisions TO bonafide_worker")
        connection.execute("SET ROLE bonafide_worker")
        connection.execute("SET bonafide.erasing = 'on'")

        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            connection.execute("UPDATE decisions SET reason = 'another'")


def test_every_source_has_its_own_retention(database: Database) -> None:
    ids = {source: _decided(database, source=source) for source in ("short", "long", "other")}
    with database.transaction() as session:
        session.execute(text("UPDATE cases SET decided_at = now() - interval '10 days'"))

    with database.transaction() as session:
        erased = erase_past(session, (("short", 7), ("long", 30), ("*", 5)), actor="sweeper")
        gone = set(session.scalars(text("SELECT id FROM cases WHERE erased_by = 'sweeper'")))

    assert erased == 2
    assert gone == {ids["short"], ids["other"]}


#: More cases than a page of retention has.
_WAITING = text("""
    INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version, decided_at)
    SELECT gen_random_uuid(), 'profiles', '', 'b', 'k', 0, 'decided', 1, now() - make_interval(days => 100, secs => n)
    FROM generate_series(1, 120) AS n
""")


@pytest.mark.parametrize("source", ["profiles", "*"])
def test_retention_goes_on_behind_what_a_platform_is_still_to_be_told(
    database: Database, source: str
) -> None:
    with database.transaction() as session:
        session.execute(_WAITING)
    _tell(database)
    case_id = _decided(database, source="profiles")
    with database.transaction() as session:
        session.execute(
            text("UPDATE cases SET decided_at = now() - interval '10 days' WHERE id = :id"), {"id": case_id}
        )

    with database.transaction() as session:
        erased = erase_past(session, ((source, 7),), actor="sweeper")
        session.execute(_DISABLE)
        page = cases_past(session, 7, source=None if source == "*" else source)

    assert erased == 1
    assert stored(database, case_id).erased_at is not None
    assert len(page) == 100


#: A hundred thousand old cases of a source that keeps them for long, and a few of others.
_MANY = text("""
    INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version, decided_at)
    SELECT gen_random_uuid(), CASE WHEN n % 10000 = 0 THEN 'other-' || n / 10000 ELSE 'archive' END, '', 'b', 'k', 0,
           'decided', 1, now() - make_interval(days => 400) + make_interval(secs => n)
    FROM generate_series(1, 100000) AS n
""")


@pytest.fixture(scope="module")
def filled(servers: Addresses, template: str) -> Iterator[str]:
    """A database with these cases, to copy from. Its triggers and indexes take seconds, a copy does not."""
    with fresh_database(servers.database_url, template) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_MANY.text.encode())
            connection.execute("ANALYZE cases")
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture
def many(servers: Addresses, filled: str) -> Iterator[Database]:
    with fresh_database(servers.database_url, filled) as url:
        database = Database(url, pool_size=1)
        yield database
        database.close()


def _buffers(session: Session, days: float) -> int:
    """Pages that the search for cases of other sources than `archive` looks at."""
    values = {"seconds": days * 86_400, "but": ["archive"], "limit": 100}
    return _pages(session, PAST_OF_OTHERS[Kept.HERE], values)


def _pages(session: Session, statement: TextClause, values: dict[str, Any]) -> int:
    """Pages that a statement looks at."""
    plan = session.scalar(text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.text}"), values)
    assert plan is not None
    return plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]


def test_retention_of_other_sources_does_not_read_what_one_source_keeps(many: Database) -> None:
    with many.transaction() as session:
        found = cases_past(session, 30, source=None, but=["archive"])
        looked_at = _buffers(session, 30)
        session.execute(text("DROP INDEX cases_to_erase"))
        without = _buffers(session, 30)

    assert len(found) == 10
    assert looked_at < 200
    assert without > 10 * looked_at  # the measure can tell: a scan reads the whole table


#: Half of them lie in an archive, every one of these past a retention of thirty days; the others are of today.
_ARCHIVED = (
    "INSERT INTO archives (bucket, key, cases, size, sha256, finished_at) VALUES ('b', 'k', 1, 1, '', now())",
    "UPDATE cases SET archive_id = (SELECT id FROM archives) WHERE id < '80000000-0000-0000-0000-000000000000'",
    "UPDATE cases SET decided_at = now() WHERE archive_id IS NULL",
    "VACUUM ANALYZE cases",
)


@pytest.fixture(scope="module")
def many_archived(servers: Addresses, filled: str) -> Iterator[Database]:
    """For tests that change nothing."""
    with fresh_database(servers.database_url, filled) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in _ARCHIVED:
                connection.execute(statement.encode())
        database = Database(url, pool_size=1)
        yield database
        database.close()


@pytest.mark.parametrize(
    ("statements", "values"),
    [
        pytest.param(PAST, {"source": "archive"}, id="of one source"),
        pytest.param(PAST_OF_OTHERS, {"but": ["other-3"]}, id="of all others"),
    ],
)
@pytest.mark.parametrize(
    ("kept", "days"),
    [
        pytest.param(Kept.HERE, 30, id="the sweeper steps over none that is archived"),
        pytest.param(Kept.ARCHIVED, 500, id="the archiver reads none whose time is not over"),
        pytest.param(Kept.WITHDRAWN, 30, id="those that were withdrawn have an index of their own"),
    ],
)
def test_retention_does_not_read_what_archives_keep(
    many_archived: Database, statements: dict[Kept, TextClause], values: dict[str, Any], kept: Kept, days: int
) -> None:
    asked = {**values, "seconds": days * 86_400, "limit": 100}
    with many_archived.transaction() as session:
        looked_at = _pages(session, statements[kept], asked)
        whole = _pages(session, text("SELECT count(*) FROM cases WHERE source <> ''"), {})

    assert looked_at < whole / 20


def test_retention_of_others_takes_the_oldest_of_all_sources(many: Database) -> None:
    with many.transaction() as session:
        oldest = session.scalars(
            text("SELECT id FROM cases WHERE source <> 'other-3' ORDER BY decided_at LIMIT 7")
        ).all()

        found = cases_past(session, 30, source=None, but=["other-3"], limit=7)

    assert found == oldest


def test_the_sweeper_may_erase_and_change_nothing_else(database_url: str, database: Database) -> None:
    case_id = _decided(database)
    sweeper = Database(as_role(database_url, "bonafide_sweeper"), pool_size=1)

    with sweeper.transaction() as session:
        assert erase_case(session, case_id, actor="sweeper")
    sweeper.close()

    with (
        psycopg.connect(as_role(database_url, "bonafide_worker")) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("SELECT erase_case(%s, 'worker')", [case_id])


def test_the_log_of_events_is_not_for_erasing(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("SET bonafide.erasing = 'on'")

        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            connection.execute("UPDATE events SET actor = 'nobody'")


def test_retention_is_read_from_the_environment() -> None:
    chosen = Settings.model_validate({"retention_days": "profiles=90, *=365"})

    assert chosen.retention_days == (("profiles", 90.0), ("*", 365.0))


def test_what_was_erased_cannot_be_appealed(database: Database) -> None:
    case_id = _decided(database)
    with database.transaction() as session:
        erase_case(session, case_id, actor="operator")

    with pytest.raises(TransitionRefused, match="erased"):
        Review(database, Settings.model_validate({})).appeal(case_id, "It is me.", actor="platform:x")


@pytest.fixture
def asked(database: Database) -> tuple[UUID, Question]:
    """A decided case, and a question about it that nobody has answered."""
    case_id = _decided(database)
    with database.transaction() as session:
        return case_id, insert_question(session, case_id, asked_by="platform:x", question=f"Is it {MARK}?")


def test_what_was_erased_takes_no_question(database: Database, broker_url: str) -> None:
    case_id = _decided(database)
    with database.transaction() as session:
        erase_case(session, case_id, actor="operator")
    questions = Questions(database, Publisher(broker_url, at_most=100))

    with pytest.raises(TransitionRefused, match="erased"):
        questions.ask(case_id, f"Is it {MARK}?", actor="platform:x")

    assert _places(database) == []


def test_a_question_that_is_open_when_its_case_is_erased_ends_without_its_words(
    database: Database, database_url: str, asked: tuple[UUID, Question]
) -> None:
    case_id, question = asked
    sweeper = Database(as_role(database_url, "bonafide_sweeper"), pool_size=1)

    with sweeper.transaction() as session:
        assert erase_case(session, case_id, actor="sweeper")
    sweeper.close()

    with database.transaction() as session:
        ended = next(one for one in questions_of(session, case_id) if one.id == question.id)
        assert begin_question(session, question.id, stale_after=60, quarantined=False) is None
    assert (ended.question, ended.answer, ended.failure) == ("erased", None, "erased")
    assert ended.answered_at is not None
    assert ended.failure in FAILURES


def test_an_answer_that_comes_while_its_case_is_erased_is_thrown_away(
    database: Database, database_url: str, asked: tuple[UUID, Question]
) -> None:
    case_id, question = asked
    worker = Database(as_role(database_url, "bonafide_worker"), pool_size=1)
    with worker.transaction() as session:
        begun = begin_question(session, question.id, stale_after=60, quarantined=False)
    assert begun is not None

    with ThreadPoolExecutor(1) as threads:
        with psycopg.connect(database_url) as erasing:
            # By the function alone: this question is left open, as one would be that slipped in.
            erasing.execute("SELECT erase_case(%s, 'sweeper')", [case_id])
            answering = threads.submit(_answered, worker, begun)
            while not (_somebody_waits(database) or answering.done()):
                pass
        stored_it = answering.result()
    worker.close()

    assert not stored_it
    assert _places(database) == []
    with database.transaction() as session:
        assert [one.failure for one in questions_of(session, case_id)][-1] == "erased"


def _answered(worker: Database, begun: HeldQuestion) -> bool:
    with worker.transaction() as session:
        return record_answer(session, begun, f"It is {MARK}.", bundle="b 1", fingerprint="f", seconds=1.0)


def _somebody_waits(database: Database) -> bool:
    """Whether a connection to this database waits for another to let go of a row."""
    waits = "datname = current_database() AND wait_event_type = 'Lock'"
    with database.transaction() as session:
        return bool(session.scalar(text(f"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE {waits})")))


def test_an_erased_case_is_another_answer_to_who_has_read_it(api: TestClient, database: Database) -> None:
    case_id = _decided(database)
    before = api.get(f"/v1/cases/{case_id}")
    with database.transaction() as session:
        erase_case(session, case_id, actor="operator")

    after = api.get(f"/v1/cases/{case_id}", headers={"If-None-Match": before.headers["etag"]})

    assert (before.json()["erased_at"], after.status_code) == (None, 200)
    assert after.json()["erased_at"] is not None
    assert after.json()["verdict"] == before.json()["verdict"]
