"""Workers that are killed, stopped, fed nonsense and started wrongly."""

import io
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import redis
from celery import Celery
from PIL import Image
from sqlalchemy import text

from moderation.cases import ImageRef
from moderation.database.cases import Opening, insert_cases
from moderation.database.connection import Database
from moderation.dispatch import ANALYSIS_QUEUE, BACKFILL_QUEUE, Doorbell
from moderation.local import (
    BUCKET,
    Addresses,
    Stack,
    open_folder,
    service_env,
    sweeper_command,
    wait_for_worker,
    worker_command,
)
from moderation.settings import Settings
from moderation.storage import Storage
from tests.acceptance import odd_pictures
from tests.builders import a_flag, new_id
from tests.chaos.pipe import Pipe
from tests.conftest import fresh_database, make_settings
from worker.watchdog import GAVE_UP

QUICK = {
    "BONAFIDE_LEASE_SECONDS": "3",
    "BONAFIDE_SWEEP_SECONDS": "0.3",
    "BONAFIDE_RING_AGAIN_SECONDS": "2",
    "BONAFIDE_ATTEMPTS_AT_MOST": "2",
    "BONAFIDE_ENGINE_TIMEOUT_SECONDS": "4",
    "BONAFIDE_DRAIN_SECONDS": "10",
}


class Yard:
    """Odd workers on the shared servers, one database each test, and a hand that restarts who falls."""

    def __init__(self, stack: Stack, database: Database, settings: Settings, env: dict[str, str]) -> None:
        self.stack = stack
        self.database = database
        self.storage = Storage(settings)
        self.doorbell = Doorbell(settings.broker_url.get_secret_value(), bells_at_most=1000)
        self.env = env

    def start(self, name: str = "worker", **env: str) -> subprocess.Popen[Any]:
        command = [
            part.replace("worker.app", "tests.acceptance.odd_worker") for part in worker_command(name=name)
        ]
        ready = self.stack.folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        own = {**service_env(self.env, "bonafide_worker"), **env, "BONAFIDE_READY_FILE": str(ready)}
        process = self.stack.spawn(name, command, env=own)
        wait_for_worker(self.stack, name=name)
        return process

    def sweep(self) -> None:
        self.stack.spawn("sweeper", sweeper_command(), env=service_env(self.env, "bonafide_sweeper"))

    def open(self, *widths: int) -> list[UUID]:
        """Cases of pictures of these widths, rung for in this order."""
        refs = [
            self.storage.put_image(f"odd/{new_id()}.jpg", _picture(width), "image/jpeg") for width in widths
        ]
        openings = [Opening(new_id(), a_flag(image=ref), ring=True) for ref in refs]
        with self.database.transaction() as session:
            insert_cases(session, openings, actor="platform:test")
        ids = [opening.id for opening in openings]
        self.doorbell.dispatch_cases(ids)
        return ids

    def rows(self, ids: list[UUID]) -> list[Any]:
        query = text("""
            SELECT c.*, (SELECT count(*) FROM analyses a WHERE a.case_id = c.id) AS analyses
            FROM cases c WHERE id = ANY(:ids) ORDER BY array_position(CAST(:ids AS uuid[]), id)
        """)
        with self.database.transaction() as session:
            return list(session.execute(query, {"ids": ids}))

    def dead_letters(self) -> int:
        with self.database.transaction() as session:
            return session.scalar(text("SELECT count(*) FROM dead_letters")) or 0

    def until(self, true: Callable[[], bool], *, timeout: float = 90, restart: bool = False) -> None:
        deadline = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < deadline, self.stack.last_words("worker")
            if restart and self.stack.fallen() == "worker":
                self.stack.stop_process("worker")
                self.start()
            time.sleep(0.05)


def _picture(width: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((width, 50), 60).save(buffer, "JPEG")
    return buffer.getvalue()


@contextmanager
def _opened(servers: Addresses, database_url: str, folder: Path) -> Generator[Yard]:
    """A yard with a broker of its own: a worker of another test must not hear these bells."""
    with Stack(open_folder(folder)) as stack:
        broker_url = stack.start_valkey()
        stack.wait_for("valkey", lambda: bool(redis.Redis.from_url(broker_url).ping()))
        env = {
            **servers.settings(),
            "BONAFIDE_BROKER_URL": broker_url,
            "BONAFIDE_DATABASE_URL": database_url,
            **QUICK,
        }
        database = Database(database_url)
        yield Yard(stack, database, make_settings(database_url, broker_url, servers), env)
        database.close()


@pytest.fixture
def yard(servers: Addresses, database_url: str, tmp_path: Path) -> Iterator[Yard]:
    """For a test that harms its worker."""
    with _opened(servers, database_url, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def working(servers: Addresses, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """One worker and one sweeper for all tests that leave them alive."""
    with (
        fresh_database(servers.database_url, template) as url,
        _opened(servers, url, tmp_path_factory.mktemp("yard")) as opened,
    ):
        opened.start()
        opened.sweep()
        yield opened


def test_a_picture_that_kills_the_process_goes_to_a_person_and_its_neighbours_do_not(yard: Yard) -> None:
    yard.start()
    yard.sweep()

    ids = yard.open(80, 81, odd_pictures.KILLS, *range(82, 90))
    yard.until(lambda: all(row.state == "ready" for row in yard.rows(ids)), restart=True)

    poison, *healthy = sorted(yard.rows(ids), key=lambda row: row.id != ids[2])
    assert (poison.refusal_code, poison.attempts, poison.analyses) == ("attempts_exhausted", 2, 0)
    assert [(row.refusal_code, row.analyses) for row in healthy] == [(None, 1)] * len(healthy)


def test_a_hung_model_ends_the_process_and_the_others_are_analysed(yard: Yard) -> None:
    yard.start()
    yard.sweep()

    ids = yard.open(odd_pictures.HANGS, 80, 81)
    yard.until(lambda: all(row.state == "ready" for row in yard.rows(ids)), restart=True, timeout=120)

    hung, *healthy = yard.rows(ids)
    assert hung.refusal_code == "attempts_exhausted"
    assert [row.analyses for row in healthy] == [1, 1]


def test_a_worker_that_runs_out_of_memory_goes_on_consuming(working: Yard) -> None:
    ids = working.open(odd_pictures.EATS_MEMORY, odd_pictures.BUG, 80)
    working.until(lambda: all(row.state == "ready" for row in working.rows(ids)[1:]))
    working.until(lambda: working.rows(ids)[0].postponements >= 1)

    eater, bug, healthy = working.rows(ids)
    assert (eater.state in ("waiting", "analyzing"), eater.analyses) == (True, 0)
    assert (bug.state, bug.refusal_code) == ("ready", "attempts_exhausted")
    assert "bug" not in bug.refusal_message
    assert healthy.analyses == 1


def test_a_bundle_that_fails_everything_stops_the_work_and_not_the_line(yard: Yard) -> None:
    yard.start(BONAFIDE_BREAKER_FAILURES="3", BONAFIDE_BREAKER_SECONDS="60")
    yard.sweep()

    ids = yard.open(*[odd_pictures.BUG] * 24)
    yard.until(lambda: "work_stopped" in (yard.stack.folder / "logs" / "worker.log").read_text())
    yard.until(lambda: all(row.state != "analyzing" for row in yard.rows(ids)))

    rows = yard.rows(ids)
    assert sum(row.state == "ready" for row in rows) == 2
    assert {row.attempts for row in rows if row.state == "waiting"} == {0}
    assert yard.stack.fallen() is None


def test_a_broker_that_is_away_for_long_is_waited_for(yard: Yard) -> None:
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
def _broker_that_goes_at_the_first_acknowledgement(yard: Yard) -> Generator[Pipe]:
    with Pipe(yard.env["BONAFIDE_BROKER_URL"]) as pipe:
        pipe.fall_at(b"HDEL", seconds=3)
        yield pipe


def test_a_broker_that_goes_while_it_is_told_that_a_message_is_done_is_heard_again(yard: Yard) -> None:
    with _broker_that_goes_at_the_first_acknowledgement(yard) as pipe:
        process = yard.start(BONAFIDE_BROKER_URL=pipe.url, BONAFIDE_WORKER_THREADS="1")
        ids = yard.open(80, 80, 80)

        yard.until(lambda: all(row.state == "ready" for row in yard.rows(ids)))

        assert (pipe.falls, process.poll()) == (1, None)


def test_a_worker_that_hears_no_bell_any_more_ends(yard: Yard) -> None:
    """The same with kombu's own count, which never takes anything again."""
    with _broker_that_goes_at_the_first_acknowledgement(yard) as pipe:
        odd = {"ODD_PLAIN_QOS": "1", "ODD_LOOP_STUCK": "5"}
        process = yard.start(BONAFIDE_BROKER_URL=pipe.url, BONAFIDE_WORKER_THREADS="1", **odd)
        yard.open(80, 80, 80)

        assert process.wait(60) == GAVE_UP
        assert pipe.falls == 1
        assert "taking from the queue has not moved" in (yard.stack.folder / "logs/worker.log").read_text()


def test_a_worker_that_is_stopped_finishes_what_it_began(yard: Yard) -> None:
    process = yard.start()
    ids = yard.open(odd_pictures.SLOW, 80)
    yard.until(lambda: yard.rows(ids)[0].state == "analyzing")

    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 0
    assert yard.rows(ids)[0].analyses == 1
    assert not (yard.stack.folder / "worker.ready").exists()


def test_a_worker_without_time_hands_its_leases_back(yard: Yard) -> None:
    process = yard.start(BONAFIDE_DRAIN_SECONDS="0.5", BONAFIDE_ENGINE_TIMEOUT_SECONDS="60")
    ids = yard.open(odd_pictures.HANGS)
    yard.until(lambda: yard.rows(ids)[0].state == "analyzing")

    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 0
    (row,) = yard.rows(ids)
    assert (row.state, row.attempts, row.lease_token) == ("waiting", 0, None)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"not json at all", id="not json"),
        pytest.param(b'{"body": "AA", "headers": {}, "properties": {}}', id="not a message"),
        pytest.param(b"[1, 2]", id="a list"),
        pytest.param(b"\xff\xfe\x00", id="bytes"),
    ],
)
def test_nonsense_on_the_queue_does_not_stop_the_worker(working: Yard, message: bytes) -> None:
    broker = redis.Redis.from_url(working.env["BONAFIDE_BROKER_URL"])

    kept = working.dead_letters()

    broker.lpush(ANALYSIS_QUEUE, message)
    ids = working.open(80)

    working.until(lambda: working.rows(ids)[0].state == "ready")
    assert working.stack.fallen() is None
    assert working.dead_letters() == kept + 1


@pytest.mark.parametrize(
    ("task", "args", "error"),
    [
        pytest.param("analyze_case", ["not-a-uuid"], "not one case id", id="too much, and not an id"),
        pytest.param("analyze_case", [{"case": 1}], "not one case id", id="an object"),
        pytest.param("delete_everything", [], "unknown task", id="another task"),
    ],
)
def test_a_message_nobody_can_process_is_kept(
    working: Yard, task: str, args: list[object], error: str
) -> None:
    app = Celery(broker=working.env["BONAFIDE_BROKER_URL"])
    mark = str(new_id())

    app.send_task(task, args=[*args, mark] if args else [mark, mark], queue=ANALYSIS_QUEUE)

    def kept() -> list[str]:
        query = text("SELECT error FROM dead_letters WHERE body LIKE '%' || :mark || '%'")
        with working.database.transaction() as session:
            return list(session.scalars(query, {"mark": mark}))

    working.until(lambda: bool(kept()))
    assert error in kept()[0]


def test_a_bell_for_a_case_that_is_done_or_never_was_changes_nothing(working: Yard) -> None:
    ids = working.open(80)
    working.until(lambda: working.rows(ids)[0].state == "ready")
    before = working.rows(ids)[0].version

    working.doorbell.dispatch_cases([*ids, new_id()])
    last = working.open(81)
    working.until(lambda: working.rows(last)[0].state == "ready")

    assert (working.rows(ids)[0].version, working.rows(ids)[0].analyses) == (before, 1)


def test_two_sweepers_ring_no_more_than_one(yard: Yard) -> None:
    yard.sweep()
    yard.stack.spawn("sweeper-2", sweeper_command(), env=service_env(yard.env, "bonafide_sweeper"))
    openings = [Opening(new_id(), a_flag(image=ImageRef(BUCKET, "x.jpg"))) for _ in range(300)]
    with yard.database.transaction() as session:
        insert_cases(session, openings, actor="platform:test")

    yard.until(lambda: yard.doorbell.depth(BACKFILL_QUEUE) >= 300)

    assert yard.doorbell.depth(BACKFILL_QUEUE) == 300


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
def test_a_worker_that_cannot_work_does_not_start(yard: Yard, change: dict[str, str], words: str) -> None:
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


def test_a_worker_refuses_another_releases_schema(yard: Yard, servers: Addresses) -> None:
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
