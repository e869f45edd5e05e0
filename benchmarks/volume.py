"""What the frequent queries cost when the history grows and the live cases do not.

    python -m benchmarks.volume [--cases 10000,1000000] [--rounds 300] [--json]

Databases of one Postgres hold the real schema, filled by generate_series: the same live cases in each (2,000 wait, 500
are under a lease, 2,000 are ready) and a history of decided ones, each with its analysis and an event. The databases
alternate, so that a slow machine slows all of them. Each query runs as the system runs it, in a transaction
that is rolled back, so that Postgres does not wait for its disk. The ratio is the worst query's median with the
largest history over its median with the smallest. Sizes of tables and indexes are those of the largest; bytes a case
are megabytes for a million cases. Then the smallest history is archived: the result is how many bytes of a case leave
Postgres (packed by VACUUM FULL before and after), and how many it takes in S3.

Ten million cases take about 14 GB of disk, which is free again afterwards.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import boto3
import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.servers import new_database, without_indexes
from benchmarks.show import options, report
from moderation.archive.archived import cases_to_archive
from moderation.archive.archiver import ArchivePlace, Archives
from moderation.archive.erasure import erase_past
from moderation.database.analyses import find_analysis_of_bytes, record_analysis, shown_analyses
from moderation.database.cases import (
    Filter,
    Opening,
    due_cases,
    find_case,
    insert_cases,
    page_of_cases,
    queue_stats,
)
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.database.health import read_health
from moderation.database.moves import begin_analysis, expire_leases
from moderation.database.queue import QueueFilter, queue_counts, queue_page
from moderation.database.review import lock_next_case, standing_decisions
from moderation.local import BUCKET, Addresses, Stack, scratch_folder
from moderation.settings import Settings
from moderation.storage import Storage
from tests.builders import a_flag, an_analysis, new_id

#: Decided cases over a month, in the order of time, each with its analysis and one event (a real one has four to
#: eight). Triggers and foreign keys are off: the rows are right.
_HISTORY = (
    """
    INSERT INTO cases (id, source, external_id, request_digest, bucket, key, reason, priority, state, version,
                       created_at, ready_at, queued_at, label, decided_at, analysis_id)
    SELECT uuidv7(make_interval(secs => -age)), 'source-' || n % 10, n::text, '\\x00', 'flagged',
           'uploads/2026/11/23/' || n || '.jpg', 'reported by a user', n % 100, 'decided', 1, at, at, at, 'bona_fide',
           at, uuidv7()
    FROM (SELECT n, age, now() - make_interval(secs => age) AS at
          FROM generate_series(1, {count}) AS n,
               LATERAL (SELECT 86400 + ({count} - n) * 2592000.0 / {count} AS age) AS made) AS drawn
    """,
    """
    INSERT INTO analyses (id, case_id, fingerprint, bundle, image_sha256, picture, label, score, calibrated, verdict,
                          faces, seconds, created_at)
    SELECT analysis_id, id, 'f1', 'mini 1', sha256(id::text::bytea),
           '{{"format": "JPEG", "width": 1024, "height": 768, "size": 90000, "sha256": "", "notes": []}}',
           'bona_fide', 0.1, false, '{{"label": "bona_fide", "score": 0.1, "margin": -2.2}}', '[]',
           '{{"fetch": 0.01, "decode": 0.02, "faces": 0.04, "engine": 0.5}}', created_at
    FROM cases
    """,
    """
    INSERT INTO events (case_id, seq, at, kind, actor, body, previous, hash)
    SELECT id, 1, at, 'analyzed', 'worker:host:1', body, '',
           sha256(convert_to(concat_ws('|', id, 1, (extract(epoch FROM at) * 1000000)::bigint, 'analyzed',
                                       'worker:host:1', body), 'UTF8'))
    FROM (SELECT id, created_at AS at, '{{"label": "bona_fide", "score": 0.1}}'::jsonb AS body FROM cases) AS made
    """,
)
#: The live cases, the same for every history.
_LIVE = """
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
_INDEXES = """
    SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index
    WHERE indrelid IN ('cases'::regclass, 'analyses'::regclass, 'events'::regclass)
      AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


@dataclass(frozen=True)
class Filled:
    """A database with a history of this many cases, and live ones to work on."""

    count: int
    database: Database
    waiting: Sequence[UUID]
    leased: Sequence[tuple[UUID, int]]
    #: Decided last.
    recent: Sequence[UUID]
    person: UUID


def _accept(session: Session, filled: Filled, turn: int) -> None:
    insert_cases(session, [Opening(a_flag(external_id=f"new-{turn}"))], actor="platform:bench")


def _begin(session: Session, filled: Filled, turn: int) -> None:
    case_id = filled.waiting[turn % len(filled.waiting)]
    assert begin_analysis(session, case_id, owner="w", lease_seconds=60, quarantined=False) is not None


def _record(session: Session, filled: Filled, turn: int) -> None:
    case_id, token = filled.leased[turn % len(filled.leased)]
    record_analysis(session, case_id, token, an_analysis(), actor="worker:w", new_id=new_id())


def _look_up(session: Session, filled: Filled, turn: int) -> None:
    find_analysis_of_bytes(session, f"{turn:064x}", "f1")


def _sweep(session: Session, filled: Filled, turn: int) -> None:
    expire_leases(session, actor="sweeper", attempts_at_most=5)
    due_cases(session, limit=100, again_after=30)


def _stats(session: Session, filled: Filled, turn: int) -> None:
    queue_stats(session)


def _metrics(session: Session, filled: Filled, turn: int) -> None:
    read_health(session)


def _page(session: Session, filled: Filled, turn: int) -> None:
    queue_page(session, QueueFilter())
    queue_counts(session)


def _claim(session: Session, filled: Filled, turn: int) -> None:
    assert lock_next_case(session, QueueFilter(), filled.person, escalated=False) is not None


def _read(session: Session, filled: Filled, turn: int) -> None:
    case_id = filled.recent[turn % len(filled.recent)]
    assert find_case(session, case_id) is not None
    assert shown_analyses(session, [case_id])
    standing_decisions(session, [case_id])


def _chain(session: Session, filled: Filled, turn: int) -> None:
    assert read_chain(session, filled.recent[turn % len(filled.recent)]).broken_at is None


def _newest(session: Session, filled: Filled, turn: int) -> None:
    assert len(page_of_cases(session, Filter(source="source-3"), older_than=None, limit=50)) == 50


def _retention(session: Session, filled: Filled, turn: int) -> None:
    assert erase_past(session, (("source-1", 90), ("*", 400)), actor="sweeper") == 0


def _leaving(session: Session, filled: Filled, turn: int) -> None:
    before = datetime.now(UTC) - timedelta(days=400)
    assert not cases_to_archive(session, before, erased_first=(), after=None, limit=2000)


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
    "read a case": _read,
    "read its chain of events": _chain,
    "newest cases of a source": _newest,
    "retention, nothing is due": _retention,
    "archive, nothing is due": _leaving,
}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cases", default="10000,1000000", help="Histories, the smallest first")
    parser.add_argument("--rounds", type=int, default=300)
    asked = parser.parse_args()
    counts = [int(count) for count in asked.cases.split(",")]
    with scratch_folder() as folder, Stack(folder, durable=False) as stack:
        servers = stack.start_servers()
        urls = [_fill(servers.database_url, count) for count in counts]
        # Only now, and in all at once: the latest cases must be of the same age in every database.
        for url in urls:
            _insert(url, _LIVE)
        filled = [_ready(url, count) for url, count in zip(urls, counts, strict=True)]
        measured = _measure(filled, asked.rounds)
        sizes = _sizes(filled[-1])
        archived = _archived(filled[0], servers)
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
    rows += [(name.replace("_", " "), f"{size:.0f} bytes a case", "") for name, size in archived.items()]
    figures = {
        "volume": {
            "hot_query_ratio": round(max(ratios.values()), 3),
            "cases": counts,
            "median_ms": {
                query: {str(count): round(ms, 3) for count, ms in by.items()} for query, by in medians.items()
            },
            "ratios": {query: round(ratio, 3) for query, ratio in ratios.items()},
            "bytes_per_case": {name: round(size / counts[-1], 1) for name, size in sizes.items()},
            "archive_bytes_per_case": {name: round(size, 1) for name, size in archived.items()},
        }
    }
    title = f"histories of {' and '.join(f'{count:,}' for count in counts)} cases"
    report(title, rows, figures, as_json=asked.json)


def _fill(server_url: str, count: int) -> str:
    """Make a database with a history of this many cases. Return its URL."""
    url = new_database(server_url, f"volume_{count}")
    started = time.perf_counter()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET maintenance_work_mem = '1GB'")
        with without_indexes(connection, _INDEXES):
            _insert(url, _HISTORY[0].format(count=count))
            with ThreadPoolExecutor() as both:
                list(both.map(lambda statement: _insert(url, statement.format(count=count)), _HISTORY[1:]))
        connection.execute("VACUUM (ANALYZE)")
    _say(f"{count:,} cases loaded in {time.perf_counter() - started:,.0f} s")
    return url


def _ready(url: str, count: int) -> Filled:
    """A database with all its cases, ready to be measured."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) cases")
        connection.execute("CHECKPOINT")
        recent = connection.execute(
            "SELECT id FROM cases WHERE state = 'decided' ORDER BY id DESC LIMIT 2000"
        ).fetchall()
        waiting = connection.execute("SELECT id FROM cases WHERE state = 'waiting' ORDER BY id").fetchall()
        leased = connection.execute(
            "SELECT id, lease_token FROM cases WHERE state = 'analyzing' ORDER BY id"
        ).fetchall()
    return Filled(
        count,
        Database(url, pool_size=1),
        waiting=[row[0] for row in waiting],
        leased=[(row[0], row[1]) for row in leased],
        recent=[row[0] for row in recent],
        person=new_id(),
    )


def _insert(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement.encode())


def _measure(filled: Sequence[Filled], rounds: int) -> dict[str, dict[int, list[float]]]:
    """Milliseconds of each query in each database, alternating. The first tenth only warms up."""
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
    # Closed without a commit: the next round finds the same database.
    with Session(filled.database.engine) as session:
        session.execute(text("SELECT 1"))  # so that the connection and the transaction exist
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


def _archived(filled: Filled, servers: Addresses) -> dict[str, float]:
    """Archive the decided cases of this database. Return how many bytes of each leave, and how many it takes in S3."""
    settings = Settings.model_validate(
        {
            "s3_endpoint_url": servers.s3_endpoint_url,
            "s3_access_key_id": servers.s3_access_key_id,
            "s3_secret_access_key": servers.s3_secret_access_key,
            "s3_buckets": BUCKET,
        }
    )
    boto3.client(
        "s3",
        endpoint_url=servers.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=servers.s3_access_key_id,
        aws_secret_access_key=servers.s3_secret_access_key,
    ).create_bucket(Bucket="archive")
    before = _packed(filled.database)
    archives = Archives(filled.database, Storage(settings), settings)
    started = time.perf_counter()
    batches = list(archives.archive(ArchivePlace("archive", ""), datetime.now(UTC)))
    seconds = time.perf_counter() - started
    cases = sum(batch.cases for batch in batches)
    _say(f"{cases:,} cases archived in {seconds:.1f} s")
    return {
        "leaves_postgres": (before - _packed(filled.database)) / cases,
        "in_s3_unpacked": sum(batch.unpacked for batch in batches) / cases,
        "in_s3": sum(batch.size for batch in batches) / cases,
    }


def _packed(database: Database) -> int:
    """Bytes of all tables of cases with their indexes, without their free space."""
    tables = ("cases", "analyses", "events")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        for table in tables:
            connection.execute(text(f"VACUUM (FULL, ANALYZE) {table}"))
        size = text(
            "SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(CAST(:tables AS text[])) AS name"
        )
        return int(connection.scalar(size, {"tables": list(tables)}))


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
