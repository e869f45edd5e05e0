"""Workers that are killed, stopped, fed nonsense and started wrongly."""

import json
import signal
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import redis
from celery import Celery
from sqlalchemy import text

from moderation.cases import ImageRef
from moderation.database.cases import Opening, insert_cases
from moderation.dispatch import ANALYSIS_QUEUE, BACKFILL_QUEUE, WorkKind
from moderation.local import (
    BUCKET,
    Addresses,
    service_env,
    sweeper_command,
    worker_command,
)
from tests.acceptance import odd_pictures
from tests.acceptance.yard import Yard, noise
from tests.builders import a_flag, new_id
from tests.chaos.pipe import Pipe
from tests.conftest import fresh_database
from worker.watchdog import GAVE_UP


class OddYard(Yard):
    """Odd workers, and a hand that restarts who falls."""

    app = "tests.acceptance.odd_worker"
    settings: ClassVar = {"BONAFIDE_ATTEMPTS_AT_MOST": "2", "BONAFIDE_DRAIN_SECONDS": "10"}

    def open(self, *widths: int) -> list[UUID]:
        """Cases of pictures of these widths, published in this order."""
        return self.open_with(noise(width, 50) for width in widths)

    def rows(self, ids: list[UUID]) -> list[Any]:
        query = text("""
            SELECT c.*, (SELECT count(*) FROM analyses a WHERE a.case_id = c.id) AS analyses
            FROM cases c WHERE id = ANY(:ids) ORDER BY array_position(CAST(:ids AS uuid[]), id)
        """)
        with self.database.transaction() as session:
            return list(session.execute(query, {"ids": ids}))

    def last_dead_letter(self) -> Any:
        with self.database.transaction() as session:
            return session.execute(text("SELECT * FROM dead_letters ORDER BY id DESC LIMIT 1")).one()

    def dead_letters(self) -> int:
        with self.database.transaction() as session:
            return session.scalar(text("SELECT count(*) FROM dead_letters")) or 0


@pytest.fixture
def yard(servers: Addresses, database_url: str, tmp_path: Path) -> Iterator[OddYard]:
    """For a test that harms its worker."""
    with OddYard.opened(servers, database_url, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def working(servers: Addresses, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OddYard]:
    """One worker and one sweeper for all tests that leave them alive."""
    with (
        fresh_database(servers.database_url, template) as url,
        OddYard.opened(servers, url, tmp_path_factory.mktemp("yard")) as opened,
    ):
        opened.start()
        opened.sweep()
        yield opened


def test_a_picture_that_kills_the_process_goes_to_a_person_and_its_neighbours_do_not(yard: OddYard) -> None:
    yard.start()
    yard.sweep()

    ids = yard.open(80, 81, odd_pictures.KILLS, *range(82, 90))
    yard.until(lambda: all(row.state == "ready" for row in yard.rows(ids)), restart=True)

    poison, *healthy = sorted(yard.rows(ids), key=lambda row: row.id != ids[2])
    assert (poison.refusal_code, poison.attempts, poison.analyses) == ("attempts_exhausted", 2, 0)
    assert [(row.refusal_code, row.analyses) for row in healthy] == [(None, 1)] * len(healthy)


def test_a_hung_model_ends_the_process_and_the_others_are_analysed(yard: OddYard) -> None:
    yard.start()
    yard.sweep()

    ids = yard.open(odd_pictures.HANGS, 80, 81)
    yard.until(lambda: all(row.state == "ready" for row in yard.rows(ids)), restart=True, timeout=120)

    hung, *healthy = yard.rows(ids)
    assert hung.refusal_code == "attempts_exhausted"
    assert [row.analyses for row in healthy] == [1, 1]


def test_a_worker_that_runs_out_of_memory_goes_on_consuming(working: OddYard) -> None:
    ids = working.open(odd_pictures.EATS_MEMORY, odd_pictures.BUG, 80)
    working.until(lambda: all(row.state == "ready" for row in working.rows(ids)[1:]))
    working.until(lambda: working.rows(ids)[0].postponements >= 1)

    eater, bug, healthy = working.rows(ids)
    assert (eater.state in ("waiting", "analyzing"), eater.analyses) == (True, 0)
    assert (bug.state, bug.refusal_code) == ("ready", "attempts_exhausted")
    assert "bug" not in bug.refusal_message
    assert healthy.analyses == 1


def test_a_bundle_that_fails_everything_stops_the_work_and_not_the_line(yard: OddYard) -> None:
    yard.start(BONAFIDE_BREAKER_FAILURES="3", BONAFIDE_BREAKER_SECONDS="60")
    yard.sweep()

    ids = yard.open(*[odd_pictures.BUG] * 24)
    yard.until(lambda: "work_stopped" in (yard.stack.folder / "logs" / "worker.log").read_text())
    yard.until(lambda: all(row.state != "analyzing" for row in yard.rows(ids)))

    rows = yard.rows(ids)
    assert sum(row.state == "ready" for row in rows) == 2
    assert {row.attempts for row in rows if row.state == "waiting"} == {0}
    assert yard.stack.fallen() is None


def test_a_broker_that_is_away_for_long_is_waited_for(yard: OddYard) -> None:
    process = yard.start(ODD_LOOP_STUCK="5")
    log = yard.stack.folder / "logs" / "worker.log"
    port = urlsplit(yard.env["BONAFIDE_BROKER_URL"]).port

    yard.stack.stop_process("valkey", signal.SIGKILL)
    # Celery tries again after 2, 4, 6 … seconds: by its third try the loop has stood still for twelve.
    yard.until(lambda: log.read_text().count("Trying again") >= 3)
    yard.stack.start_valkey(port)
    yard.stack.wait_for("valkey", lambda: bool(redis.Redis.from_url(yard.env["BONAFIDE_BROKER_URL"]).ping()))
    yard.sweep()
    ids = yard.open(80)
    yard.until(lambda: yard.rows(ids)[0].state == "ready")

    assert process.poll() is None


@contextmanager
def _broker_that_goes_at_the_first_acknowledgement(yard: OddYard) -> Generator[Pipe]:
    with Pipe(yard.env["BONAFIDE_BROKER_URL"]) as pipe:
        pipe.fall_at(b"HDEL", seconds=3)
        yield pipe


def test_a_broker_that_goes_while_it_is_told_that_a_message_is_done_is_heard_again(yard: OddYard) -> None:
    with _broker_that_goes_at_the_first_acknowledgement(yard) as pipe:
        process = yard.start(BONAFIDE_BROKER_URL=pipe.url, BONAFIDE_WORKER_THREADS="1")
        yard.sweep()  # a message that was on its way when the broker went is published again
        ids = yard.open(80, 80, 80)

        yard.until(lambda: all(row.state == "ready" for row in yard.rows(ids)))

        assert (pipe.falls, process.poll()) == (1, None)


def test_a_worker_that_hears_no_message_any_more_ends(yard: OddYard) -> None:
    """The same with kombu's own count, which never takes anything again."""
    with _broker_that_goes_at_the_first_acknowledgement(yard) as pipe:
        odd = {"ODD_PLAIN_QOS": "1", "ODD_LOOP_STUCK": "5"}
        process = yard.start(BONAFIDE_BROKER_URL=pipe.url, BONAFIDE_WORKER_THREADS="1", **odd)
        yard.open(80, 80, 80)

        assert process.wait(60) == GAVE_UP
        assert pipe.falls == 1
        assert "taking from the queue has not moved" in (yard.stack.folder / "logs/worker.log").read_text()


def test_a_worker_that_is_stopped_finishes_what_it_began(yard: OddYard) -> None:
    process = yard.start()
    ids = yard.open(odd_pictures.SLOW, 80)
    yard.until(lambda: yard.rows(ids)[0].state == "analyzing")

    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 0
    assert yard.rows(ids)[0].analyses == 1
    assert not (yard.stack.folder / "worker.ready").exists()


def test_a_worker_without_time_releases_its_leases(yard: OddYard) -> None:
    process = yard.start(BONAFIDE_DRAIN_SECONDS="0.5", BONAFIDE_ENGINE_TIMEOUT_SECONDS="60")
    ids = yard.open(odd_pictures.HANGS)
    yard.until(lambda: yard.rows(ids)[0].state == "analyzing")

    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 0
    (row,) = yard.rows(ids)
    assert (row.state, row.attempts, row.lease_token) == ("waiting", 0, None)


def _odd_message(**odd: object) -> bytes:
    """A message that kombu takes, but for what is odd about it. None: it lacks that."""
    place = {"exchange": "", "routing_key": ANALYSIS_QUEUE}
    properties: dict[str, object] = {"delivery_tag": "t-1", "delivery_info": place, "body_encoding": "base64"}
    headers = {"task": "analyze_case", "id": "1"}
    whole: dict[str, object] = {
        "body": "W10=",
        "headers": headers,
        "content-type": "application/json",
        "content-encoding": "utf-8",
    }
    for name, value in odd.items():
        (properties if name in properties else whole)[name] = value
    kept = {name: value for name, value in properties.items() if value is not None}
    return json.dumps({**whole, "properties": kept}).encode()


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"not json at all", id="not json"),
        pytest.param(b'{"body": "AA", "headers": {}, "properties": {}}', id="not a message"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b"\xff\xfe\x00", id="bytes"),
        pytest.param(b"[" * 100_000, id="as deep as a well"),
        pytest.param(b'{"__type__": "uuid", "__value__": 5}', id="an id that is none"),
        pytest.param(_odd_message(body="a"), id="not base64"),
        pytest.param(_odd_message(body=5), id="a body that is no text"),
        pytest.param(_odd_message(body_encoding="rot13"), id="an encoding nobody knows"),
        pytest.param(_odd_message(delivery_tag=["t-1"]), id="a tag that is a list"),
        pytest.param(_odd_message(delivery_tag="\ud800"), id="a tag that Redis does not take"),
        pytest.param(_odd_message(delivery_info=None), id="from nowhere"),
        pytest.param(_odd_message(headers=["task"]), id="headers that are a list"),
        pytest.param(_odd_message(headers={"task": []}), id="a task that has no name"),
        pytest.param(_odd_message(headers={"task": "analyze_case"}), id="a task without an id"),
    ],
)
def test_nonsense_on_the_queue_does_not_stop_the_worker(working: OddYard, message: bytes) -> None:
    broker = redis.Redis.from_url(working.env["BONAFIDE_BROKER_URL"])

    kept = working.dead_letters()

    broker.lpush(BACKFILL_QUEUE, message)
    working.until(lambda: working.dead_letters() > kept)
    ids = working.open(80)

    working.until(lambda: working.rows(ids)[0].state == "ready")
    assert working.stack.fallen() is None
    assert working.dead_letters() == kept + 1
    assert working.last_dead_letter().queue == BACKFILL_QUEUE
    assert broker.hlen("unacked") == 0


@pytest.mark.parametrize(
    ("task", "args", "error"),
    [
        pytest.param("analyze_case", ["not-a-uuid"], "not one case id", id="too much, and not an id"),
        pytest.param("analyze_case", [{"case": 1}], "not one case id", id="an object"),
        pytest.param("delete_everything", [], "unknown task", id="another task"),
    ],
)
def test_a_message_nobody_can_process_is_kept(
    working: OddYard, task: str, args: list[object], error: str
) -> None:
    app = Celery(broker=working.env["BONAFIDE_BROKER_URL"])
    mark = str(new_id())

    app.send_task(task, args=[*args, mark] if args else [mark, mark], queue=BACKFILL_QUEUE)

    def kept() -> list[Any]:
        query = text("SELECT queue, error FROM dead_letters WHERE body LIKE '%' || :mark || '%'")
        with working.database.transaction() as session:
            return list(session.execute(query, {"mark": mark}))

    working.until(lambda: bool(kept()))
    assert kept()[0].queue == BACKFILL_QUEUE
    assert error in kept()[0].error


def test_a_message_for_a_case_that_is_done_or_never_was_changes_nothing(working: OddYard) -> None:
    ids = working.open(80)
    working.until(lambda: working.rows(ids)[0].state == "ready")
    before = working.rows(ids)[0].version

    working.publisher.publish(WorkKind.ANALYSIS, [*ids, new_id()])
    last = working.open(81)
    working.until(lambda: working.rows(last)[0].state == "ready")

    assert (working.rows(ids)[0].version, working.rows(ids)[0].analyses) == (before, 1)


def test_two_sweepers_publish_no_more_than_one(yard: OddYard) -> None:
    yard.sweep()
    yard.stack.spawn("sweeper-2", sweeper_command(), env=service_env(yard.env, "bonafide_sweeper"))
    openings = [Opening(a_flag(image=ImageRef(BUCKET, "x.jpg"))) for _ in range(300)]
    with yard.database.transaction() as session:
        insert_cases(session, openings, actor="platform:test")

    yard.until(lambda: yard.publisher.depth(BACKFILL_QUEUE) >= 300)

    assert yard.publisher.depth(BACKFILL_QUEUE) == 300


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"-P": "solo"}, "threads pool", id="another pool"),
        pytest.param({"BONAFIDE_BUNDLE": "/nowhere"}, "nowhere", id="no bundle"),
        pytest.param(
            {"BONAFIDE_LEASE_SECONDS": "soon"}, "BONAFIDE_LEASE_SECONDS", id="a setting nobody can read"
        ),
    ],
)
def test_a_worker_that_cannot_work_does_not_start(yard: OddYard, change: dict[str, str], words: str) -> None:
    pool = change.pop("-P", "threads")
    command = [pool if part == "threads" else part for part in worker_command()]

    ended = subprocess.run(
        command,
        env={**service_env(yard.env), **change},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode != 0
    assert words in ended.stderr


def test_a_worker_refuses_another_releases_schema(yard: OddYard, servers: Addresses) -> None:
    ended = subprocess.run(
        worker_command(),
        env={
            **service_env(yard.env),
            "BONAFIDE_DATABASE_URL": servers.database_url,
            "BONAFIDE_START_WAIT_SECONDS": "0",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == 1
    assert "bonafide migrate" in ended.stderr
