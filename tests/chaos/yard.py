"""A running system of its own: servers, several workers, two sweepers, the API; and a hand that restarts who falls."""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import UUID

import httpx
import psycopg
import redis
from psycopg.rows import namedtuple_row

from moderation.cases import ImageRef
from moderation.client import BonaFide
from moderation.local import (
    BUCKET,
    Addresses,
    Stack,
    free_port,
    open_folder,
    prepare_database,
    service_env,
    sweeper_command,
    web_command,
    worker_command,
)
from moderation.settings import Settings
from moderation.storage import Storage
from tests.chaos.pictures import Mark, Planned, a_picture
from tests.chaos.pipe import Pipe
from tests.chaos.store import FaultyStore
from tests.conftest import end_at_once

#: The bucket of archived cases.
ARCHIVES = "archives"
#: Everything short, so that minutes of faults fit into seconds.
QUICK = {
    "BONAFIDE_LEASE_SECONDS": "2",
    "BONAFIDE_SWEEP_SECONDS": "0.3",
    "BONAFIDE_PUBLISH_AGAIN_SECONDS": "1",
    "BONAFIDE_ATTEMPTS_AT_MOST": "4",
    "BONAFIDE_ENGINE_TIMEOUT_SECONDS": "3",
    "BONAFIDE_IMAGE_FETCH_SECONDS": "2",
    "BONAFIDE_DRAIN_SECONDS": "2",
    "BONAFIDE_WORKER_THREADS": "4",
    "BONAFIDE_DEVICE": "cpu",
    "BONAFIDE_LOG_FORMAT": "json",
}


@dataclass
class _Kept:
    """A process that is to run, and how it is started."""

    command: Sequence[str]
    env: Mapping[str, str]
    process: subprocess.Popen[Any]


@dataclass(frozen=True)
class Submitted:
    """What the API accepted of one round."""

    #: Case id to what was planned.
    accepted: Mapping[UUID, Planned] = field(default_factory=dict[UUID, Planned])
    #: Answers that were not acceptances.
    refused: Sequence[str] = ()
    #: Seconds of the slowest call, with the client's retries.
    slowest: float = 0.0


class Yard:
    """Not safe to share between threads, but for `submit`: children die with the thread that started them."""

    def __init__(self, stack: Stack, addresses: Addresses, store: FaultyStore, pipe: Pipe, key: str) -> None:
        self.stack = stack
        self.addresses = addresses
        self.store = store
        #: Between our processes and Postgres. The campaign itself asks Postgres past it.
        self.pipe = pipe
        self.api_url = f"http://127.0.0.1:{free_port()}"
        self.restarts = 0
        #: Cases of this round that were accepted until now. Written by `submit`.
        self.accepted = 0
        #: Called again and again while a round goes on.
        self.meanwhile: list[Callable[[], object]] = []
        self._key = key
        self._kept: dict[str, _Kept] = {}
        # The store itself, past the proxy.
        self._storage = Storage(_settings(addresses.settings()))
        self._storage._client.create_bucket(Bucket=ARCHIVES)

    @property
    def workers(self) -> list[str]:
        return [name for name in self._kept if name.startswith("worker-")]

    @property
    def sweepers(self) -> list[str]:
        return [name for name in self._kept if name.startswith("sweeper-")]

    def start(self, *, workers: int) -> None:
        """Start everything and wait until the API answers."""
        env = self._env()
        port = urlsplit(self.api_url).port or 0
        self._keep("web", web_command(port), service_env(env, "bonafide_intake"))
        own = {**env, "BONAFIDE_S3_ENDPOINT_URL": self.store.url}
        for index in range(workers):
            name = f"worker-{index}"
            command = [
                part.replace("worker.app", "tests.chaos.marked_worker") for part in worker_command(name=name)
            ]
            ready = {"BONAFIDE_READY_FILE": str(self.ready_file(name))}
            self._keep(name, command, {**service_env(own, "bonafide_worker"), **ready})
        for index in range(2):
            self._keep(f"sweeper-{index}", sweeper_command(), service_env(env, "bonafide_sweeper"))
        self.stack.wait_for("web", lambda: httpx.get(f"{self.api_url}/readyz").status_code == 200)
        for name in self.workers:
            self.stack.wait_for(name, self.ready_file(name).exists)

    def _env(self) -> dict[str, str]:
        """The environment of our processes."""
        once = self.stack.folder / "once"
        once.mkdir(exist_ok=True)
        through = {"BONAFIDE_DATABASE_URL": self.pipe.url, "CHAOS_ONCE": str(once)}
        return {**self.addresses.settings(), **QUICK, **through}

    def settings(self, **fields: object) -> Settings:
        """For doors of the campaign's own: they go the ways that our processes go."""
        env = {**self._env(), "BONAFIDE_S3_ENDPOINT_URL": self.store.url}
        return _settings(env).model_copy(update=fields)

    def ready_file(self, name: str) -> Path:
        return self.stack.folder / f"{name}.ready"

    def _keep(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.ready_file(name).unlink(missing_ok=True)
        self._kept[name] = _Kept(command, env, self.stack.spawn(name, command, env=env))

    # --- what faults do

    def send(self, name: str, number: signal.Signals) -> None:
        """A signal to a process. One that ended meanwhile is no matter."""
        self._kept[name].process.send_signal(number)

    def restart(self, name: str, **env: str) -> None:
        """End a process in order and start it with these variables too."""
        kept = self._kept[name]
        self.stack.stop_process(name, signal.SIGTERM, timeout=6)
        self.ready_file(name).unlink(missing_ok=True)
        process = self.stack.spawn(name, kept.command, env={**kept.env, **env})
        self._kept[name] = _Kept(kept.command, kept.env, process)

    def tend(self) -> None:
        """Start again who fell, as any supervisor does."""
        for name, kept in list(self._kept.items()):
            if kept.process.poll() is not None:
                self.restarts += 1
                self.stack.stop_process(name)
                self._keep(name, kept.command, kept.env)
        for act in self.meanwhile:
            act()

    def broker(self) -> redis.Redis:
        return redis.Redis.from_url(self.addresses.broker_url, socket_timeout=2)

    def restart_broker(self, number: signal.Signals) -> None:
        """It saved nothing."""
        self.stack.stop_process("valkey", number)
        self.stack.start_valkey(urlsplit(self.addresses.broker_url).port)
        self.stack.wait_for("valkey", lambda: bool(self.broker().ping()))

    def restart_postgres(self, number: signal.Signals, *, away: float) -> None:
        self.stack.stop_process("postgres", number)
        time.sleep(away)
        self.stack.start_postgres(urlsplit(self.addresses.database_url).port)
        self.stack.wait_for("postgres", lambda: bool(self.ask("SELECT 1")))

    # --- cases

    def submit(self, planned: Sequence[Planned], *, name: str, seed: int, within: float) -> Submitted:
        """Put the pictures into the store and flag them, in calls of different sizes. For a thread of its own."""
        chance = random.Random(seed)
        accepted: dict[UUID, Planned] = {}
        refused: list[str] = []
        start, slowest = 0, 0.0
        with BonaFide(self.api_url, self._key, tries=60, timeout=10) as client:
            while start < len(planned):
                group = planned[start : start + chance.randrange(1, 9)]
                bodies: list[Mapping[str, Any]] = [
                    {
                        "image": self._put(f"{name}/{start + index:04d}.jpg", one),
                        "source": "chaos",
                        "external_id": f"{name}-{start + index}",
                        "priority": chance.randrange(0, 100, 10),
                    }
                    for index, one in enumerate(group)
                ]
                began = time.monotonic()
                outcomes = list(client.submit_many(bodies))
                slowest = max(slowest, time.monotonic() - began)
                for outcome, one in zip(outcomes, group, strict=True):
                    if outcome.case is not None:
                        accepted[outcome.case.id] = one
                        self.accepted += 1
                    elif outcome.problem is not None:
                        refused.append(outcome.problem.code)
                for index, one in enumerate(group):
                    self._meddle(f"{name}/{start + index:04d}.jpg", one, chance)
                start += len(group)
                time.sleep(chance.random() * 2 * within * len(group) / len(planned))
        return Submitted(accepted, refused, slowest)

    def _put(self, key: str, one: Planned) -> ImageRef:
        if one.data is not None:
            self._storage.put_image(key, one.data, "image/jpeg")
        return ImageRef(BUCKET, key)

    def _meddle(self, key: str, one: Planned, chance: random.Random) -> None:
        """What the platform does to an image after it flagged it."""
        if one.mark is Mark.VANISHES:
            self._storage._client.delete_object(Bucket=BUCKET, Key=key)
        elif one.mark is Mark.CHANGES:
            self._storage.put_image(key, a_picture(80, chance), "image/jpeg")

    def ask(self, query: str, *values: object) -> list[Any]:
        """Rows, seen by the owner. Raise psycopg.OperationalError while Postgres is away."""
        with psycopg.connect(
            self.addresses.database_url, autocommit=True, connect_timeout=2, row_factory=namedtuple_row
        ) as connection:
            cursor = connection.execute(query, values)  # pyright: ignore[reportArgumentType, reportCallIssue]
            return cursor.fetchall() if cursor.description else []

    def unfinished(self, ids: Sequence[UUID]) -> list[Any] | None:
        """Those of these cases that are not before a person yet. None: Postgres does not say."""
        query = "SELECT * FROM cases WHERE id = ANY(%s) AND state NOT IN ('ready', 'decided')"
        try:
            return self.ask(query, list(ids))
        except psycopg.OperationalError:
            return None


_Y = TypeVar("_Y", bound=Yard)


@contextmanager
def open_yard(folder: Path, kind: type[_Y], *, workers: int = 3, seed: int = 0) -> Generator[_Y]:
    """Everything started; everything ended afterwards."""
    with Stack(
        open_folder(folder)
    ) as stack:  # durable: what a crash of Postgres may lose was never committed
        addresses = stack.start_servers()
        key = prepare_database(addresses.database_url)
        with FaultyStore(addresses.s3_endpoint_url, seed=seed) as store, Pipe(addresses.database_url) as pipe:
            yard = kind(stack, addresses, store, pipe, key)
            yard.start(workers=workers)
            yield yard
            end_at_once(stack)
            stack.stop()


def _settings(env: Mapping[str, str]) -> Settings:
    ours = {name: value for name, value in env.items() if name.startswith("BONAFIDE_")}
    return Settings.model_validate(
        {name.removeprefix("BONAFIDE_").lower(): value for name, value in ours.items()}
    )
