"""The sweeper: as fast as workers take, no faster, and what fails takes nothing else with it."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
import redis
from pydantic import SecretStr
from sqlalchemy import text

from moderation.database.connection import Database
from moderation.database.operations import beat
from moderation.dispatch import ANALYSIS_QUEUE, BACKFILL_QUEUE, RERUN_QUEUE, Publisher, WorkKind
from moderation.local import as_role
from moderation.rollouts.rerun_rows import insert_reruns
from moderation.settings import Settings
from tests.fakes import ScriptedDetector
from tests.integration.conftest import accepted, begun, let_time_pass, ready
from worker.analysis import ANALYZE
from worker.lifecycle import close_station, open_station
from worker.run import take
from worker.station import Station
from worker.sweeper import GLANCE_SECONDS, Swept, publish_due, rest, sweep, sweep_for_ever

LIVE, BACKFILL = 50, 0


@pytest.fixture
def chosen(settings: Settings) -> Settings:
    """Room for ten messages in each lane."""
    return settings.model_copy(update={"messages_at_most": 10, "retention_days": (("*", 30.0),)})


@pytest.fixture
def publisher(chosen: Settings) -> Publisher:
    return Publisher(chosen.broker_url.get_secret_value(), at_most=chosen.messages_at_most)


@pytest.fixture
def broker(broker_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(broker_url) as client:
        yield client


class Workers(threading.Event):
    """Take some messages whenever the sweeper waits, and end it when it waits for longer than a glance."""

    def __init__(self, broker: Any, chosen: Settings, *, at_once: int) -> None:
        super().__init__()
        self._broker = broker
        self._chosen = chosen
        self._at_once = at_once
        self.waited: list[float | None] = []
        self.taken = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        for queue in (ANALYSIS_QUEUE, BACKFILL_QUEUE):
            self.taken += len(self._broker.rpop(queue, self._at_once) or []) if self._at_once else 0
        if timeout == self._chosen.sweep_seconds:
            self.set()
        return self.is_set()


@pytest.mark.parametrize("priority", [LIVE, BACKFILL])
def test_a_backlog_is_published_as_fast_as_workers_take(
    database: Database, chosen: Settings, broker: Any, priority: int
) -> None:
    for _ in range(43):
        accepted(database, priority=priority)
    workers = Workers(broker, chosen, at_once=3)

    sweep_for_ever(chosen, workers)

    assert workers.taken + broker.llen(ANALYSIS_QUEUE) + broker.llen(BACKFILL_QUEUE) == 43
    assert set(workers.waited[:-1]) == {GLANCE_SECONDS}


def test_a_queue_is_full_while_more_may_wait_behind_its_messages(
    database: Database, chosen: Settings, publisher: Publisher, broker: Any
) -> None:
    for _ in range(12):
        accepted(database, priority=LIVE)
    accepted(database, priority=BACKFILL)

    swept = [sweep(database, publisher, chosen) for _ in range(2)]
    broker.delete(ANALYSIS_QUEUE)
    swept.append(sweep(database, publisher, chosen))

    full = (WorkKind.ANALYSIS,)
    assert [(one.published, one.full) for one in swept] == [(11, full), (0, full), (2, ())]


def _take(broker: Any, queue: str) -> UUID | None:
    """A worker takes the oldest message."""
    message = broker.rpop(queue)
    return None if message is None else UUID(json.loads(base64.b64decode(json.loads(message)["body"]))[0][0])


@pytest.mark.parametrize(
    ("priority", "queue"), [(LIVE, ANALYSIS_QUEUE), (BACKFILL, BACKFILL_QUEUE)], ids=["live", "backfill"]
)
def test_a_message_that_is_lost_is_published_again_while_a_backlog_stands(
    database: Database, chosen: Settings, publisher: Publisher, broker: Any, priority: int, queue: str
) -> None:
    for _ in range(30):
        accepted(database, priority=priority)
    sweep(database, publisher, chosen)
    lost = _take(broker, queue)

    taken: list[UUID | None] = []
    for _ in range(8):  # twenty seconds each, in which workers take a quarter of the queue and more come
        for _ in range(3):
            accepted(database, priority=priority)
            taken.append(_take(broker, queue))
            assert taken[-1] is not None
            begun(database, taken[-1])
        let_time_pass(database, 20)
        for _ in range(4):
            sweep(database, publisher, chosen)
        assert broker.llen(queue) == chosen.messages_at_most

    # Out of the line after 40 seconds, when it holds ten others.
    assert lost in taken[3:18]
    assert len(set(taken)) == len(taken)


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(
            lambda station: station.serving.breaker.failed("a fault"), id="its model fails everything"
        ),
        pytest.param(lambda station: station.draining.set(), id="it is about to end"),
    ],
)
def test_a_message_that_a_stopped_worker_took_is_published_again_at_the_next_look(
    database: Database,
    database_url: str,
    chosen: Settings,
    publisher: Publisher,
    broker: Any,
    monkeypatch: pytest.MonkeyPatch,
    stop: Callable[[Station], None],
) -> None:
    monkeypatch.setattr("worker.analysis.STOPPED_SECONDS", 0.0)
    worker = {"database_url": SecretStr(as_role(database_url, "bonafide_worker")), "breaker_failures": 1}
    station = open_station(chosen.model_copy(update=worker), ScriptedDetector())
    case_id = accepted(database, priority=LIVE)
    sweep(database, publisher, chosen)
    stop(station)

    assert _take(broker, ANALYSIS_QUEUE) == case_id
    with take(station, ANALYZE, case_id) as taken:
        swept = sweep(database, publisher, chosen)
    close_station(station, why="the test ended")

    assert (taken, swept.published) == (None, 1)


def test_a_rerun_whose_message_is_lost_is_published_again_while_others_wait(
    database: Database, chosen: Settings, publisher: Publisher, broker: Any
) -> None:
    with database.transaction() as session:
        beat(session, "worker:here:1", {"fingerprint": "new"})
    cases = [ready(database) for _ in range(10)]
    with database.transaction() as session:
        insert_reruns(session, "new", cases, shadow=True, asked_by="operator")
    publish_due(database, publisher, WorkKind.RERUN, chosen)
    broker.ltrim(RERUN_QUEUE, 2, -1)
    with database.transaction() as session:
        session.execute(text("UPDATE reruns SET rung_at = rung_at - interval '31 seconds'"))

    published = sum(publish_due(database, publisher, WorkKind.RERUN, chosen).published for _ in range(5))

    assert published == 2
    assert len({_take(broker, RERUN_QUEUE) for _ in range(10)}) == 10


def test_a_message_that_nobody_takes_is_published_once_however_long(
    database: Database, chosen: Settings, publisher: Publisher, broker: Any
) -> None:
    for _ in range(6):
        accepted(database, priority=LIVE)
    sweep(database, publisher, chosen)

    for _ in range(3):
        let_time_pass(database, 3600)
        assert sweep(database, publisher, chosen).published == 0

    assert broker.llen(ANALYSIS_QUEUE) == 6


def test_what_is_no_message_of_ours_hides_none(
    database: Database, chosen: Settings, publisher: Publisher, broker: Any
) -> None:
    accepted(database, priority=LIVE)
    for nonsense in ("{", "[]", "{}", '{"body": 5}', '{"body": "W10="}', '{"body": "W1s1XV0="}', "\xff"):
        broker.lpush(ANALYSIS_QUEUE, nonsense)

    assert sweep(database, publisher, chosen).published == 1


def test_a_queue_that_stays_full_is_looked_at_no_more_often_than_an_empty_one(
    chosen: Settings, publisher: Publisher, broker: Any
) -> None:
    broker.rpush(ANALYSIS_QUEUE, *range(10))
    waited = {}
    for full in ((WorkKind.ANALYSIS,), ()):
        workers = Workers(broker, chosen, at_once=0)
        rest(publisher, Swept(full=full), chosen, workers)
        waited[full] = sum(one or 0 for one in workers.waited)

    assert waited[WorkKind.ANALYSIS,] == pytest.approx(waited[()]) == chosen.sweep_seconds


def test_a_broker_that_takes_no_messages_is_waited_for(
    database: Database, chosen: Settings, publisher: Publisher, broker: Any
) -> None:
    for _ in range(12):
        accepted(database, priority=LIVE)
    broker.config_set("maxmemory", 1)
    try:
        swept = sweep(database, publisher, chosen)
    finally:
        broker.config_set("maxmemory", 0)

    assert (swept.published, swept.full) == (0, ())
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM cases WHERE rung_at IS NOT NULL")) == 0


def test_a_case_whose_leases_ran_out_often_comes_back_within_minutes(
    database: Database, chosen: Settings, publisher: Publisher
) -> None:
    case_id = accepted(database)
    begun(database, case_id)
    with database.transaction() as session:
        session.execute(text("UPDATE cases SET attempts = 99"))
    let_time_pass(database, chosen.lease_seconds + 1)

    returned = sweep(database, publisher, chosen.model_copy(update={"attempts_at_most": 100})).returned
    let_time_pass(database, 301)

    assert returned == 1
    assert begun(database, case_id, quarantined=True) is not None


def test_without_a_broker_leases_are_taken_back_no_less_often(chosen: Settings, broker: Any) -> None:
    nobody = Publisher("redis://127.0.0.1:9/0", at_most=chosen.messages_at_most)
    workers = Workers(broker, chosen, at_once=0)

    rest(nobody, Swept(full=(WorkKind.ANALYSIS,)), chosen, workers)

    assert workers.waited == [chosen.sweep_seconds]


@pytest.mark.parametrize(
    "table",
    [
        pytest.param("questions", id="publishing questions"),
        pytest.param("reruns", id="publishing reruns"),
        pytest.param("skips", id="erasing"),
    ],
)
def test_what_fails_takes_nothing_else_with_it(
    database: Database, database_url: str, chosen: Settings, broker: Any, table: str
) -> None:
    accepted(database, priority=LIVE)
    done = ready(database)
    with database.transaction() as session:
        session.execute(text("UPDATE cases SET state = 'decided', decided_at = '2020-01-01' WHERE id = :id"),
                        {"id": done})  # fmt: skip
        session.execute(text("INSERT INTO heartbeats VALUES ('worker:of:old', '2020-01-01', '{}')"))
        name = session.scalar(text("SELECT current_database()"))
        session.execute(text(f"ALTER DATABASE {name} SET lock_timeout = '100ms'"))

    with psycopg.connect(database_url) as another:
        another.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")  # pyright: ignore[reportArgumentType, reportCallIssue]
        sweep_for_ever(chosen, Workers(broker, chosen, at_once=0))

    with database.transaction() as session:
        seen = session.scalars(text("SELECT process FROM heartbeats")).all()
        erased = session.scalar(text("SELECT count(*) FROM cases WHERE erased_at IS NOT NULL"))
    assert [process.split(":")[0] for process in seen] == ["sweeper"]
    assert broker.llen(ANALYSIS_QUEUE) == 1
    assert erased == (table == "reruns")


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"retention_days": (("profiles", 9_999_999.0),)}, id="erasing"),
        pytest.param({"webhook_log_days": 99_999_999}, id="forgetting deliveries"),
    ],
)
def test_what_postgres_cannot_compute_stops_one_chore_and_not_the_sweeper(
    database: Database, chosen: Settings, broker: Any, odd: dict[str, Any]
) -> None:
    accepted(database, priority=LIVE)
    workers = Workers(broker, chosen, at_once=0)

    sweep_for_ever(chosen.model_copy(update=odd), workers)

    assert workers.is_set()
    assert broker.llen(ANALYSIS_QUEUE) == 1


def test_a_right_that_is_missing_stops_one_chore_and_not_the_sweeper(
    database: Database, database_url: str, chosen: Settings, broker: Any
) -> None:
    accepted(database, priority=LIVE)
    with database.transaction() as session:
        session.execute(text("REVOKE DELETE ON deliveries FROM bonafide_sweeper"))
    limited = chosen.model_copy(update={"database_url": SecretStr(as_role(database_url, "bonafide_sweeper"))})

    sweep_for_ever(limited, Workers(broker, limited, at_once=0))

    assert broker.llen(ANALYSIS_QUEUE) == 1
