"""A worker of this or that kind, a sweeper and a database of their own, on the shared servers."""

import io
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self
from uuid import UUID

import redis
from PIL import Image

from moderation.database.cases import Opening, insert_cases
from moderation.database.connection import Database
from moderation.dispatch import Publisher, WorkKind
from moderation.local import (
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
from tests.builders import a_flag, new_id
from tests.conftest import end_at_once, make_settings

#: Nobody waits long in a test.
QUICK = {
    "BONAFIDE_LEASE_SECONDS": "3",
    "BONAFIDE_SWEEP_SECONDS": "0.3",
    "BONAFIDE_PUBLISH_AGAIN_SECONDS": "2",
    "BONAFIDE_ENGINE_TIMEOUT_SECONDS": "4",
}


class Yard:
    #: The module that stands in for `worker.app`, and the settings of its own.
    app: ClassVar[str]
    settings: ClassVar[Mapping[str, str]]

    def __init__(self, stack: Stack, database: Database, settings: Settings, env: dict[str, str]) -> None:
        self.stack = stack
        self.database = database
        self.storage = Storage(settings)
        self.publisher = Publisher(settings.broker_url.get_secret_value(), at_most=1000)
        self.env = env

    @classmethod
    @contextmanager
    def opened(cls, servers: Addresses, database_url: str, folder: Path) -> Generator[Self]:
        """With a broker of its own: a worker of another test must not take these messages."""
        with Stack(open_folder(folder)) as stack:
            broker_url = stack.start_valkey()
            stack.wait_for("valkey", lambda: bool(redis.Redis.from_url(broker_url).ping()))
            env = {
                **servers.settings(),
                "BONAFIDE_BROKER_URL": broker_url,
                "BONAFIDE_DATABASE_URL": database_url,
                **QUICK,
                **cls.settings,
            }
            database = Database(database_url)
            yield cls(stack, database, make_settings(database_url, broker_url, servers), env)
            database.close()
            end_at_once(stack)

    def start(self, name: str = "worker", *, app: str | None = None, **env: str) -> subprocess.Popen[Any]:
        """A worker, once it takes work."""
        command = [part.replace("worker.app", app or self.app) for part in worker_command(name=name)]
        ready = self.stack.folder / f"{name}.ready"
        ready.unlink(missing_ok=True)
        own = {**service_env(self.env, "bonafide_worker"), **env, "BONAFIDE_READY_FILE": str(ready)}
        process = self.stack.spawn(name, command, env=own)
        wait_for_worker(self.stack, name=name)
        return process

    def sweep(self) -> None:
        self.stack.spawn("sweeper", sweeper_command(), env=service_env(self.env, "bonafide_sweeper"))

    def open_with(self, pictures: Iterable[bytes]) -> list[UUID]:
        """Cases of these pictures, published in this order."""
        refs = [self.storage.put_image(f"yard/{new_id()}.jpg", picture, "image/jpeg") for picture in pictures]
        openings = [Opening(a_flag(image=ref), publish=True) for ref in refs]
        with self.database.transaction() as session:
            insert_cases(session, openings, actor="platform:test")
        ids = [opening.id for opening in openings]
        self.publisher.publish(WorkKind.ANALYSIS, ids)
        return ids

    def until(self, true: Callable[[], bool], *, timeout: float = 90, restart: bool = False) -> None:
        """Wait; `restart` starts a worker that has fallen once more, as whoever supervises it would."""
        deadline = time.monotonic() + timeout
        while not true():
            assert time.monotonic() < deadline, self.stack.last_words("worker")
            if restart and self.stack.fallen() == "worker":
                self.stack.stop_process("worker")
                self.start()
            time.sleep(0.05)


def noise(width: int, height: int) -> bytes:
    """A JPEG that shows nothing, and is unlike any other."""
    buffer = io.BytesIO()
    Image.effect_noise((width, height), 60).save(buffer, "JPEG")
    return buffer.getvalue()
