"""Shortcuts for tests against a real Postgres."""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from uuid import UUID

import boto3
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from moto.server import ThreadedMotoServer
from sqlalchemy import text
from sqlalchemy.orm import Session

from moderation.accounts.keys import add_key
from moderation.analysis import Analysis
from moderation.cases import Case, Refusal
from moderation.database.analyses import record_analysis
from moderation.database.cases import find_case, insert_case
from moderation.database.connection import Database
from moderation.database.moves import Moved, begin_analysis, refuse_case
from moderation.database.tables import PersonRow
from moderation.people import Person, Role
from moderation.settings import Settings
from moderation.web.app import create_app
from tests.builders import a_person, an_analysis, an_opening, new_id


@pytest.fixture(scope="session")
def versioned_store() -> Iterator[dict[str, str]]:
    """The settings of a store whose bucket keeps versions: the embedded one keeps none."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)
    client.create_bucket(Bucket="versions")
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    yield {
        "s3_endpoint_url": address,
        "s3_buckets": "versions",
        "s3_access_key_id": "test",
        "s3_secret_access_key": "test",
    }
    server.stop()


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
    database: Database, case_id: UUID, *, lease_seconds: float = 60, quarantined: bool = False
) -> Moved | None:
    with database.transaction() as session:
        return begin_analysis(
            session, case_id, owner="w1", lease_seconds=lease_seconds, quarantined=quarantined
        )


def ready(database: Database, *, analysis: Analysis | None = None, **fields: object) -> UUID:
    """A case with an analysis, before a reviewer."""
    case_id = accepted(database, **fields)
    lease = begun(database, case_id)
    assert lease is not None
    with database.transaction() as session:
        record_analysis(
            session,
            case_id,
            lease.lease_token,
            analysis or an_analysis(),
            actor="worker:w1",
            new_id=new_id(),
        )
    return case_id


def refused(
    database: Database,
    *,
    refusal: Refusal = Refusal("image_corrupt", "the file ends in the middle"),  # noqa: B008  it is frozen
    **fields: object,
) -> UUID:
    """A case without an analysis, before a reviewer."""
    case_id = accepted(database, **fields)
    lease = begun(database, case_id)
    assert lease is not None
    with database.transaction() as session:
        refuse_case(session, case_id, lease.lease_token, refusal, actor="worker:w1")
    return case_id


def enrolled(database: Database, name: str = "Ada", role: Role = Role.REVIEWER) -> Person:
    """Somebody who may sign in."""
    person = a_person(name=name, role=role)
    with database.transaction() as session:
        session.add(PersonRow(id=person.id, email=person.email, name=name, role=role.value, preferences={}))
    return person


@pytest.fixture
def ada(database: Database) -> Person:
    return enrolled(database, "Ada")


@pytest.fixture
def grace(database: Database) -> Person:
    return enrolled(database, "Grace")


@pytest.fixture
def lead(database: Database) -> Person:
    return enrolled(database, "Katherine", Role.LEAD)


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


@contextmanager
def serving(app: FastAPI) -> Generator[str]:
    """The app behind a real HTTP server; its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    waiting = threading.Event()
    while not server.started and thread.is_alive():
        waiting.wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def api(settings: Settings, database: Database) -> Iterator[TestClient]:
    """The API in this process, with a key that may do everything."""
    with database.transaction() as session:
        key = add_key(session, "testers")
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {key}"}) as client:
        yield client
