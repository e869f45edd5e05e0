"""What leases, events and idempotency cost per image, beside the bare write of the same facts.

    python -m benchmarks.bookkeeping [--images 600] [--json]

Bare: one insert for the image and one for its analysis, with psycopg, each with its commit, into tables with a primary
key. Ours: the case with its digest and idempotency key, the lease, and the analysis under the lease's fence, each with
its event in the hash chain, by the functions that intake and workers call. Each has one connection; Postgres is
durable. The two alternate every twenty images, so that a slow machine slows both. No model, no picture, no queue.
"""

import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psutil
import psycopg
from psycopg.types.json import Jsonb
from sqlalchemy import text

from benchmarks.show import options, report
from moderation.analysis import Analysis
from moderation.database.analyses import record_analysis
from moderation.database.cases import Opening, insert_cases
from moderation.database.connection import Database
from moderation.database.moves import begin_analysis
from moderation.local import Stack, prepare_database, scratch_folder
from moderation.presentation import face_json, verdict_json
from tests.builders import a_flag, an_analysis, new_id

#: Images of one way before the other way's turn.
TURN = 20

_BARE = """
CREATE TABLE bare_images (id uuid PRIMARY KEY, source text, external_id text, bucket text, key text, reason text,
                          context jsonb, created_at timestamptz DEFAULT now());
CREATE TABLE bare_analyses (id uuid PRIMARY KEY, image_id uuid, label text, score double precision, technique text,
                            verdict jsonb, faces jsonb, seconds jsonb, created_at timestamptz DEFAULT now());
CREATE TABLE bare_artifacts (analysis_id uuid, ordinal int, heading text, text text, polygon jsonb,
                             PRIMARY KEY (analysis_id, ordinal));
"""


@dataclass
class Spent:
    """Milliseconds per image, one entry each, by stage."""

    wall: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    client: dict[str, list[float]] = field(default_factory=dict[str, list[float]])

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        wall, client = time.perf_counter(), time.thread_time()
        yield
        self.wall.setdefault(name, []).append(1000 * (time.perf_counter() - wall))
        self.client.setdefault(name, []).append(1000 * (time.thread_time() - client))

    def total(self, of: dict[str, list[float]], way: str) -> float:
        """The median image's sum over the stages of one way."""
        stages = [values for name, values in of.items() if name.startswith(way)]
        return statistics.median(map(sum, zip(*stages, strict=True)))


def _flag(number: int) -> Any:
    return a_flag(external_id=f"bench-{number}", reason="reported by a user", context={"user": number})


def bare(connection: psycopg.Connection[Any], number: int, spent: Spent) -> None:
    flag, image_id, analysis_id = _flag(number), new_id(), new_id()
    image = flag.image
    with spent.stage("bare: the image came"), connection.transaction():
        connection.execute(
            "INSERT INTO bare_images (id, source, external_id, bucket, key, reason, context)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s)",
            (
                image_id,
                flag.source,
                flag.external_id,
                image.bucket,
                image.key,
                flag.reason,
                Jsonb(flag.context),
            ),
        )
    with spent.stage("bare: its analysis"), connection.transaction():
        _insert_bare(connection, image_id, analysis_id, an_analysis())


def _insert_bare(
    connection: psycopg.Connection[Any], image_id: UUID, analysis_id: UUID, analysis: Analysis
) -> None:
    verdict, faces = analysis.verdict, [face_json(face) | {"rationale": []} for face in analysis.faces]
    connection.execute(
        "INSERT INTO bare_analyses (id, image_id, label, score, technique, verdict, faces, seconds)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
        (
            analysis_id,
            image_id,
            verdict.label,
            verdict.score,
            verdict.technique,
            Jsonb(verdict_json(verdict)),
            Jsonb(faces),
            Jsonb(dict(analysis.seconds)),
        ),
    )
    for ordinal, artifact in enumerate((a for face in analysis.faces for a in face.rationale), start=1):
        polygon = Jsonb([[point.x, point.y] for point in artifact.polygon or ()])
        connection.execute(
            "INSERT INTO bare_artifacts VALUES (%s, %s, %s, %s, %s)",
            (analysis_id, ordinal, artifact.heading, artifact.text, polygon),
        )


def ours(database: Database, number: int, spent: Spent) -> None:
    opening = Opening(_flag(number), f"key-{number}")
    with spent.stage("ours: accepted"), database.transaction() as session:
        insert_cases(session, [opening], actor="platform:bench")
    with spent.stage("ours: leased"), database.transaction() as session:
        lease = begin_analysis(session, opening.id, owner="bench", lease_seconds=60, quarantined=False)
    assert lease is not None
    with spent.stage("ours: recorded"), database.transaction() as session:
        record_analysis(
            session, opening.id, lease.lease_token, an_analysis(), actor="worker:bench", new_id=new_id()
        )


def _measure(url: str, images: int) -> tuple[Spent, dict[str, float]]:
    """Milliseconds by stage, and of Postgres's CPU per image by way."""
    database, spent = Database(url, pool_size=1), Spent()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_BARE)
        with database.transaction() as session:
            backend = psutil.Process(session.scalar(text("SELECT pg_backend_pid()")))
        ways: dict[str, tuple[psutil.Process, Callable[[int, Spent], None]]] = {
            "bare": (psutil.Process(connection.info.backend_pid), lambda n, s: bare(connection, n, s)),
            "ours": (backend, lambda n, s: ours(database, n, s)),
        }
        for _, write in ways.values():
            for number in range(TURN):  # the first prepare their statements
                write(-1 - number, Spent())
        before = {way: process.cpu_times() for way, (process, _) in ways.items()}
        for start in range(0, images, TURN):
            for _, write in ways.values():
                for number in range(start, start + TURN):
                    write(number, spent)
        count = len(range(0, images, TURN)) * TURN
        cpu = {way: 1000 * _since(before[way], process) / count for way, (process, _) in ways.items()}
    database.close()
    return spent, cpu


def _since(before: Any, process: psutil.Process) -> float:
    now = process.cpu_times()
    return now.user + now.system - before.user - before.system


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=600)
    asked = parser.parse_args()
    with scratch_folder() as folder, Stack(folder) as stack:
        url = stack.start_servers().database_url
        prepare_database(url)
        spent, postgres = _measure(url, asked.images)
    figures = {
        way: {
            "wall_ms": round(spent.total(spent.wall, way), 2),
            "client_cpu_ms": round(spent.total(spent.client, way), 2),
            "postgres_cpu_ms": round(postgres[way], 2),
        }
        for way in ("bare", "ours")
    }
    figures["overhead"] = {
        key: round(figures["ours"][key] - spent, 2) for key, spent in figures["bare"].items()
    }
    medians = {stage: statistics.median(client) for stage, client in spent.client.items()}
    rows = [
        (stage, f"{statistics.median(wall):.2f} ms", f"{medians[stage]:.2f} ms CPU here")
        for stage, wall in spent.wall.items()
    ]
    titles = {
        "bare": "bare, per image",
        "ours": "ours, per image",
        "overhead": "leases, events and idempotency",
    }
    rows += [
        (
            titles[way],
            f"{figure['wall_ms']:.2f} ms",
            f"{figure['client_cpu_ms']:.2f} ms CPU here, {figure['postgres_cpu_ms']:.2f} of Postgres",
        )
        for way, figure in figures.items()
    ]
    report(f"{asked.images} images, medians", rows, {"bookkeeping": figures}, as_json=asked.json)


if __name__ == "__main__":
    main()
