"""What benchmarks on real servers share: databases with the real schema, settings, workers, and cases on their way."""

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
from sqlalchemy import text

from moderation.cases import ImageRef
from moderation.database import schema
from moderation.database.cases import Opening, insert_cases
from moderation.database.connection import Database
from moderation.local import Stack, service_env, worker_command
from moderation.settings import Settings
from tests.builders import a_flag


def new_database(server_url: str, name: str) -> str:
    """Make a database with the real schema on this server; return its URL."""
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}".encode())
    url = f"{server_url.rsplit('/', 1)[0]}/{name}"
    database = Database(url, pool_size=1)
    schema.upgrade(database)
    database.close()
    return url


@contextmanager
def without_indexes(connection: psycopg.Connection[Any], found_by: str) -> Generator[None]:
    """Drop indexes, and make them again at the end: an index that grows row by row takes minutes.

    `found_by`: a query for their names and definitions.
    """
    indexes = connection.execute(found_by.encode()).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}".encode())
    yield
    for _, definition in indexes:
        connection.execute(definition.encode())


def settings_of(env: Mapping[str, str]) -> Settings:
    """The settings that a process with these variables has."""
    prefix = "BONAFIDE_"
    return Settings.model_validate(
        {name.removeprefix(prefix).lower(): value for name, value in env.items() if name.startswith(prefix)}
    )


def start_worker(
    stack: Stack, env: Mapping[str, str], *, name: str = "worker", app: str = "worker.app"
) -> int:
    """Start a worker; return its process id. It is ready once `local.wait_for_worker` returns."""
    command = [part.replace("worker.app", app) for part in worker_command(name=name)]
    ready_file = stack.folder / f"{name}.ready"
    ready_file.unlink(missing_ok=True)
    own = {**service_env(env, "bonafide_worker"), "BONAFIDE_READY_FILE": str(ready_file)}
    return stack.spawn(name, command, env=own).pid


def open_cases(database: Database, images: Sequence[ImageRef]) -> list[UUID]:
    """Open a case for each image; the sweeper publishes them."""
    openings = [Opening(a_flag(image=image)) for image in images]
    with database.transaction() as session:
        insert_cases(session, openings, actor="platform:bench")
    return [opening.id for opening in openings]


def wait_until_ready(
    database: Database, cases: Sequence[UUID], count: int | None = None, *, look: float
) -> None:
    """Wait until so many of these cases are ready. None: all. `look`: seconds between two looks."""
    ready = text("SELECT count(*) FROM cases WHERE id = ANY(:ids) AND state = 'ready'")
    while True:
        with database.transaction() as session:
            if (session.scalar(ready, {"ids": list(cases)}) or 0) >= (len(cases) if count is None else count):
                return
        time.sleep(look)
