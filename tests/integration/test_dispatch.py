"""Publishing: after a commit and never else, to brokers that go away, come back, or say nothing."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import redis
from sqlalchemy import text

from moderation import dispatch
from moderation.database.connection import Database
from moderation.dispatch import ANSWERS_WITHIN, Publisher, WorkKind
from moderation.errors import BrokerUnavailable, DatabaseUnavailable
from moderation.local import Stack, open_folder
from tests.builders import new_id
from tests.integration.conftest import accepted


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with Stack(open_folder(tmp_path)) as opened:
        yield opened


def _started(stack: Stack, port: int | None = None) -> str:
    url = stack.start_valkey(port)
    stack.wait_for("valkey", lambda: bool(redis.Redis.from_url(url).ping()))
    return url


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """Every publishing tries, however short ago another failed."""
    monkeypatch.setattr(dispatch, "QUIET_AFTER_FAILURE", 0.0)


def test_a_broker_that_says_nothing_keeps_no_caller_however_often_it_is_asked(stack: Stack) -> None:
    publisher = Publisher(_started(stack), at_most=100)
    assert publisher.publish(WorkKind.ANALYSIS, [new_id()])
    stack.signal_process("valkey", signal.SIGSTOP)
    began = time.monotonic()

    with ThreadPoolExecutor(8) as threads:
        published = list(threads.map(lambda _: publisher.publish(WorkKind.ANALYSIS, [new_id()]), range(8)))

    assert published == [0] * 8
    assert time.monotonic() - began < 8 * 2 * ANSWERS_WITHIN
    with pytest.raises(BrokerUnavailable):
        publisher.depth()

    stack.signal_process("valkey", signal.SIGCONT)
    assert publisher.publish(WorkKind.ANALYSIS, [new_id()])


def test_a_broker_that_comes_back_is_published_at_the_next_try(stack: Stack) -> None:
    url = _started(stack)
    publisher = Publisher(url, at_most=100)
    assert publisher.publish(WorkKind.ANALYSIS, [new_id()])

    stack.stop_process("valkey", signal.SIGKILL)
    assert not publisher.publish(WorkKind.ANALYSIS, [new_id()])
    assert not publisher.publish(WorkKind.ANALYSIS, [new_id()])
    _started(stack, urlsplit(url).port)

    assert publisher.publish(WorkKind.ANALYSIS, [new_id()])
    assert publisher.depth() == 1


def test_a_full_broker_is_left_to_the_sweeper(stack: Stack) -> None:
    url = _started(stack)
    publisher = Publisher(url, at_most=100)
    broker = redis.Redis.from_url(url)

    broker.config_set("maxmemory", 1)
    assert not publisher.publish(WorkKind.ANALYSIS, [new_id()])
    broker.config_set("maxmemory", 0)

    assert publisher.publish(WorkKind.ANALYSIS, [new_id()])


def _published(database: Database, broker_url: str) -> tuple[Publisher, UUID]:
    return Publisher(broker_url, at_most=100), accepted(database)


def test_what_is_committed_is_published_and_not_before(database: Database, broker_url: str) -> None:
    publisher, case_id = _published(database, broker_url)

    with database.transaction() as session:
        published = publisher.publish_after_commit(session, WorkKind.ANALYSIS, [case_id])
        before = publisher.depth(), published.count

    assert before == (0, 0)
    assert (publisher.depth(), published.count) == (1, 1)


def test_what_is_rolled_back_is_not_published(database: Database, broker_url: str) -> None:
    publisher, case_id = _published(database, broker_url)

    def breaks() -> None:
        with database.transaction() as session:
            publisher.publish_after_commit(session, WorkKind.ANALYSIS, [case_id])
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        breaks()
    with database.transaction():
        pass

    assert publisher.depth() == 0


def test_what_postgres_does_not_commit_is_not_published(database: Database, broker_url: str) -> None:
    publisher, case_id = _published(database, broker_url)

    def is_cut_off() -> None:
        with database.transaction() as session:
            publisher.publish_after_commit(session, WorkKind.ANALYSIS, [case_id])
            backend = session.scalar(text("SELECT pg_backend_pid()"))
            with database.transaction() as another:
                another.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": backend})

    with pytest.raises(DatabaseUnavailable):
        is_cut_off()

    assert publisher.depth() == 0


def test_nothing_is_published_inside_a_transaction(database: Database, broker_url: str) -> None:
    publisher, case_id = _published(database, broker_url)

    with database.transaction(), pytest.raises(AssertionError):
        publisher.publish(WorkKind.ANALYSIS, [case_id])

    assert publisher.depth() == 0
    assert publisher.publish(WorkKind.ANALYSIS, [case_id]) == 1
