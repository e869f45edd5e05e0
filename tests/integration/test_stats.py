"""How the line stands, and that asking costs what is live and recent."""

import re

import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from moderation.database import cases
from moderation.database.cases import queue_stats
from moderation.database.connection import Database
from moderation.database.moves import release_case
from moderation.decisions import Outcome
from moderation.settings import Settings
from tests.builders import a_verdict, bona_fide
from tests.integration.beside import both, on_trial
from tests.integration.conftest import accepted, begun, enrolled, ready, refused
from tests.integration.deciding import a_review, decide


def test_the_rate_is_of_what_became_ready_in_the_last_minute(database: Database, settings: Settings) -> None:
    decided, long_ago = ready(database), ready(database)
    refused(database)
    review = a_review(database, settings)
    decide(review, database, enrolled(database), decided, Outcome.BONA_FIDE)
    with database.transaction() as session:
        past = text("UPDATE cases SET ready_at = now() - interval '2 minutes' WHERE id = :id")
        session.execute(past, {"id": long_ago})

    with database.transaction() as session:
        stats = queue_stats(session)

    assert stats.ready_per_second * 60 == pytest.approx(2)


def test_the_rate_is_read_from_the_indexes_of_what_is_live_and_recent(database: Database) -> None:
    plan = _plan(database, cases._STATS.text)  # pyright: ignore[reportPrivateUsage]

    assert "cases_ready_age" in plan
    assert "cases_decided" in plan
    assert "events" not in plan


def test_the_oldest_is_the_first_of_the_live_cases_and_no_other_plan_is_possible(database: Database) -> None:
    plan = _plan(database, cases._OLDEST.text)  # pyright: ignore[reportPrivateUsage]

    with database.transaction() as session:
        session.execute(text("DROP INDEX cases_live"))
        without = "\n".join(session.scalars(text(f"EXPLAIN {cases._OLDEST.text}")))  # pyright: ignore[reportPrivateUsage]
        session.rollback()

    assert plan.count("Index Scan using cases_live") == 2
    assert "Sort" not in plan
    assert "Sort" in without  # the order of ids alone, which every case has, does not serve


def test_the_oldest_waiting_case_is_told_whatever_else_there_is(database: Database) -> None:
    ready(database)
    oldest, _ = accepted(database), accepted(database)
    with database.transaction() as session:
        session.execute(
            text("UPDATE cases SET created_at = now() - interval '90 seconds' WHERE id = :id"), {"id": oldest}
        )
        assert cases.oldest_waiting_seconds(session) == pytest.approx(90)
        assert queue_stats(session).oldest_waiting_seconds == pytest.approx(90)
    begun(database, oldest)
    with database.transaction() as session:
        assert cases.oldest_waiting_seconds(session) == pytest.approx(90, abs=5)


def test_a_case_that_is_taken_and_gets_nowhere_keeps_its_age(database: Database) -> None:
    case_id = accepted(database)
    ages = text("UPDATE cases SET created_at = now() - interval '90 seconds' WHERE id = :id")
    with database.transaction() as session:
        session.execute(ages, {"id": case_id})

    lease = begun(database, case_id)
    assert lease is not None

    with database.transaction() as session:
        assert cases.oldest_waiting_seconds(session) == pytest.approx(90, abs=5)
        release_case(session, case_id, lease.lease_token, actor="worker:w1", why="test", due_in=0)
        assert cases.oldest_waiting_seconds(session) == pytest.approx(90, abs=5)


def test_nothing_is_old_when_every_case_has_its_end(database: Database) -> None:
    ready(database)

    with database.transaction() as session:
        assert cases.oldest_waiting_seconds(session) == 0


def _plan(database: Database, query: str) -> str:
    with database.transaction() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        return "\n".join(session.scalars(text(f"EXPLAIN {query}")))


@pytest.mark.parametrize(
    ("locked", "missing"),
    [
        pytest.param("dead_letters", "bonafide_leases", id="health"),
        pytest.param("reruns", "bonafide_cases", id="the line"),
        pytest.param("analyses", "bonafide_candidate_pictures", id="the trial"),
    ],
)
def test_what_cannot_be_read_takes_no_other_metric_away(
    api: TestClient, database: Database, database_url: str, locked: str, missing: str
) -> None:
    on_trial(database)
    both(database, a_verdict(), bona_fide())
    names = {
        "bonafide_oldest_waiting_seconds",
        "bonafide_messages",
        "bonafide_leases",
        "bonafide_cases",
        "bonafide_candidate_pictures",
    }

    with psycopg.connect(database_url) as holder:
        holder.execute(f"LOCK TABLE {locked}")  # pyright: ignore[reportArgumentType, reportCallIssue]
        scraped = api.get("/metrics").text

    assert names & set(re.findall(r"^(\w+)[ {]", scraped, re.MULTILINE)) == names - {missing}
