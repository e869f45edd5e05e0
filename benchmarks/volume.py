"""What the hot queries cost when the history grows and the live cases do not.

    python -m benchmarks.volume [--cases 10000,1000000] [--rounds 300] [--json]

Databases of one Postgres hold the real schema, filled by generate_series: the same live cases in each (2,000 wait, 500
are under a lease, 2,000 are ready) and a history of decided ones, each with its analysis and an event. The databases
take turns, so that a machine that slows down slows all of them. Each query runs as the system runs it, in a transaction
that is rolled back where it changes something. The ratio is the worst query's median at the largest history over its
median at the smallest. Sizes of tables and indexes are those of the largest.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.show import report
from moderation.database import schema
from moderation.database.analyses import find_analysis_of_bytes, record_analysis
from moderation.database.cases import Opening, cases_to_ring, insert_cases, queue_stats
from moderation.database.connection import Database
from moderation.database.health import read_health
from moderation.database.moves import begin_analysis, expire_leases
from moderation.database.queue import QueueFilter, queue_counts, queue_page
from moderation.database.review import lock_next_case
from moderation.local import Stack
from tests.builders import a_flag, an_analysis, new_id

#: Triggers and foreign keys stay silent while the history is made: what they check is made right. A month in the order
#: of time, as it comes.
_FILL = """
SET LOCAL session_replication_role = replica;
SET LOCAL statement_timeout = 0;
SET LOCAL synchronous_commit = off;
INSERT INTO cases (id, source, external_id, request_digest, bucket, key, reason, priority, state, version, created_at,
                   ready_at, queued_at, label, decided_at)
SELECT uuidv7(make_interval(secs => -age)), 'source-' || n % 10, n::text, '\\x00', 'flagged',
       'uploads/2026/11/23/' || n || '.jpg', 'reported by a user', n % 100, 'decided', 4, at, at, at, 'bona_fide', at
FROM (SELECT n, age, now() - make_interval(secs => age) AS at
      FROM generate_series(1, {count}) AS n, LATERAL (SELECT 86400 + ({count} - n) * 2592000.0 / {count} AS age) AS made
     ) AS drawn;
INSERT INTO analyses (id, case_id, fingerprint, bundle, image_sha256, picture, label, score, calibrated, verdict, faces,
                      seconds, created_at)
SELECT uuidv7(), id, 'f1', 'mini 1', sha256(id::text::bytea), '{{"format": "JPEG", "width": 1024, "height": 768}}',
       'bona_fide', 0.1, false, '{{"label": "bona_fide", "score": 0.1, "margin": -2.2}}', '[]',
       '{{"fetch": 0.01, "decode": 0.02, "faces": 0.04, "engine": 0.5}}', created_at
FROM cases;
INSERT INTO events (case_id, seq, at, kind, actor, body, previous, hash)
SELECT id, 1, created_at, 'analyzed', 'worker:host:1', '{{"label": "bona_fide", "score": 0.1}}', '',
       sha256(id::text::bytea)
FROM cases;
INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version, ready_at, queued_at, label)
SELECT uuidv7(), 'source-' || n % 10, '\\x00', 'flagged', n || '.jpg', n % 100, 'ready', 3, now(), now(), 'deepfake'
FROM generate_series(1, 2000) AS n;
INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version)
SELECT uuidv7(), 'source-' || n % 10, '\\x00', 'flagged', n || '.jpg', n % 100, 'waiting', 1
FROM generate_series(1, 2000) AS n;
INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version, lease_token, lease_owner,
                   lease_expires_at)
SELECT uuidv7(), 'source-' || n % 10, '\\x00', 'flagged', n || '.jpg', n % 100, 'analyzing', 2, n, 'w',
       now() + make_interval(secs => 36000)
FROM generate_series(1, 500) AS n;
SELECT setval('lease_tokens', 1000);
"""


@dataclass(frozen=True)
class Filled:
    """A database with a history of so many cases, and live ones to work on."""

    count: int
    database: Database
    waiting: Sequence[UUID]
    leased: Sequence[tuple[UUID, int]]
    person: UUID


def _accept(session: Session, filled: Filled, turn: int) -> None:
    insert_cases(session, [Opening(new_id(), a_flag(external_id=f"new-{turn}"))], actor="platform:bench")


def _begin(session: Session, filled: Filled, turn: int) -> None:
    case_id = filled.waiting[turn % len(filled.waiting)]
    assert begin_analysis(session, case_id, owner="w", lease_seconds=60, alone=False) is not None


def _record(session: Session, filled: Filled, turn: int) -> None:
    case_id, token = filled.leased[turn % len(filled.leased)]
    record_analysis(session, case_id, token, an_analysis(), actor="worker:w", new_id=new_id())


def _look_up(session: Session, filled: Filled, turn: int) -> None:
    find_analysis_of_bytes(session, f"{turn:064x}", "f1")


def _sweep(session: Session, filled: Filled, turn: int) -> None:
    expire_leases(session, actor="sweeper", attempts_at_most=5)
    cases_to_ring(session, limit=100, ring_again_seconds=30)


def _stats(session: Session, filled: Filled, turn: int) -> None:
    queue_stats(session)


def _metrics(session: Session, filled: Filled, turn: int) -> None:
    read_health(session)


def _page(session: Session, filled: Filled, turn: int) -> None:
    queue_page(session, QueueFilter())
    queue_counts(session)


def _claim(session: Session, filled: Filled, turn: int) -> None:
    assert lock_next_case(session, QueueFilter(), filled.person, escalated=False) is not None


QUERIES: dict[str, Callable[[Session, Filled, int], None]] = {
    "accept a case": _accept,
    "begin an analysis": _begin,
    "find an analysis of the same bytes": _look_up,
    "record an analysis": _record,
    "sweep": _sweep,
    "queue stats": _stats,
    "metrics": _metrics,
    "queue page": _page,
    "claim next": _claim,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="10000,1000000", help="Histories, the smallest first")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    counts = [int(count) for count in asked.cases.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Stack(folder) as stack:
            server_url = stack.start_servers().database_url
            filled = [_fill(server_url, count) for count in counts]
            measured = _measure(filled, asked.rounds)
            sizes = _sizes(filled[-1])
    medians = {
        query: {count: statistics.median(each) for count, each in by.items()}
        for query, by in measured.items()
    }
    ratios = {query: by[counts[-1]] / by[counts[0]] for query, by in medians.items()}
    rows = [
        (query, " / ".join(f"{by[count]:.2f} ms" for count in counts), f"ratio {ratios[query]:.2f}")
        for query, by in medians.items()
    ]
    rows += [(f"size of {name}", f"{size / counts[-1]:.0f} bytes a case", "") for name, size in sizes.items()]
    figures = {
        "volume": {
            "hot_query_ratio": round(max(ratios.values()), 3),
            "cases": counts,
            "median_ms": {
                query: {str(count): round(ms, 3) for count, ms in by.items()} for query, by in medians.items()
            },
            "ratios": {query: round(ratio, 3) for query, ratio in ratios.items()},
            "bytes_per_case": {name: round(size / counts[-1], 1) for name, size in sizes.items()},
        }
    }
    report(
        f"histories of {' and '.join(f'{count:,}' for count in counts)} cases",
        rows,
        figures,
        as_json=asked.json,
    )


def _fill(server_url: str, count: int) -> Filled:
    name = f"volume_{count}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")  # pyright: ignore[reportArgumentType, reportCallIssue]
    url = server_url.rsplit("/", 1)[0] + f"/{name}"
    database = Database(url, pool_size=1)
    schema.upgrade(database)
    with psycopg.connect(url) as connection:
        connection.execute(_FILL.format(count=count).encode())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")
        waiting = connection.execute("SELECT id FROM cases WHERE state = 'waiting' ORDER BY id").fetchall()
        leased = connection.execute(
            "SELECT id, lease_token FROM cases WHERE state = 'analyzing' ORDER BY id"
        ).fetchall()
    return Filled(
        count, database, [row[0] for row in waiting], [(row[0], row[1]) for row in leased], new_id()
    )


def _measure(filled: Sequence[Filled], rounds: int) -> dict[str, dict[int, list[float]]]:
    """Milliseconds of each query in each database, in turns. The first tenth only warms up."""
    measured: dict[str, dict[int, list[float]]] = {
        query: {one.count: [] for one in filled} for query in QUERIES
    }
    for turn in range(rounds + rounds // 10):
        for query, work in QUERIES.items():
            for one in filled:
                milliseconds = _timed(one, work, turn)
                if turn >= rounds // 10:
                    measured[query][one.count].append(milliseconds)
    return measured


def _timed(filled: Filled, work: Callable[[Session, Filled, int], None], turn: int) -> float:
    # Closed without a commit: the next round finds the database as this one did.
    with Session(filled.database.engine) as session:
        session.execute(text("SELECT 1"))  # the connection and the transaction are there
        started = time.perf_counter()
        work(session, filled, turn)
        return 1000 * (time.perf_counter() - started)


def _sizes(filled: Filled) -> dict[str, int]:
    """Bytes of the tables that grow with history, and of their indexes."""
    query = text("""
        SELECT c.relname, pg_table_size(c.oid) AS bytes FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_index i ON i.indexrelid = c.oid
        LEFT JOIN pg_class t ON t.oid = i.indrelid
        WHERE n.nspname = 'public' AND c.relkind IN ('r', 'i')
          AND coalesce(t.relname, c.relname) IN ('cases', 'analyses', 'events') AND pg_table_size(c.oid) > 65536
        ORDER BY coalesce(t.relname, c.relname), c.relkind DESC, bytes DESC
    """)
    with filled.database.transaction() as session:
        return {row.relname: int(row.bytes) for row in session.execute(query)}


if __name__ == "__main__":
    main()
