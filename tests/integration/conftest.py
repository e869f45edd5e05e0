"""Shortcuts for tests against a real Postgres."""

from collections.abc import Iterator
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from moderation.cases import Case
from moderation.database.cases import find_case, insert_case
from moderation.database.connection import Database
from moderation.database.keys import add_key
from moderation.database.moves import Moved, begin_analysis
from moderation.settings import Settings
from moderation.web.app import create_app
from tests.builders import an_opening


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.transaction() as opened:
        yield opened


def accepted(database: Database, **fields: object) -> UUID:
    """A case that waits."""
    opening = an_opening(**fields)
    with database.transaction() as session:
        insert_case(session, opening, actor="platform:test")
    return opening.id


def begun(
    database: Database, case_id: UUID, *, lease_seconds: float = 60, alone: bool = False
) -> Moved | None:
    with database.transaction() as session:
        return begin_analysis(session, case_id, owner="w1", lease_seconds=lease_seconds, alone=alone)


def stored(database: Database, case_id: UUID) -> Case:
    with database.transaction() as session:
        found = find_case(session, case_id)
    assert found is not None
    return found


def let_time_pass(database: Database, seconds: float) -> None:
    """Nothing sleeps: the rows are moved into the past instead, by the owner of the tables."""
    with database.transaction() as session:
        session.execute(
            text("""
                UPDATE cases SET due_at = due_at - :d, rung_at = rung_at - :d, created_at = created_at - :d,
                                 lease_expires_at = lease_expires_at - :d
            """).bindparams(d=_interval(seconds))
        )


def _interval(seconds: float) -> object:
    from datetime import timedelta

    return timedelta(seconds=seconds)


@pytest.fixture
def api(settings: Settings, database: Database) -> Iterator[TestClient]:
    """The API in this process, with a key that may do everything."""
    with database.transaction() as session:
        key = add_key(session, "testers")
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {key}"}) as client:
        yield client
