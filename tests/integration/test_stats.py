"""How the line stands, and that asking costs what is live and recent."""

import pytest
from sqlalchemy import text

from moderation.database import cases
from moderation.database.cases import queue_stats
from moderation.database.connection import Database
from moderation.decisions import Outcome
from moderation.settings import Settings
from tests.integration.conftest import enrolled, ready, refused
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
    with database.transaction() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        plan = "\n".join(session.scalars(text(f"EXPLAIN {cases._STATS.text}")))  # pyright: ignore[reportPrivateUsage]

    assert "cases_ready_age" in plan
    assert "cases_decided" in plan
    assert "events" not in plan
