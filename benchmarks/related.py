"""How fast similar pictures are found, among ten thousand hashes and among a million.

    python -m benchmarks.related [--small 10000] [--large 1000000] [--rounds 1000] [--json]

Two databases of one Postgres hold the real schema. Two thousand of the hashes belong to cases, the others to lists.
A search is `near_hashes` for a hash that is up to 31 bits away from a stored one, and must find this one; every
twentieth answer is compared with a search of all hashes. A "panel" is what the page of a case asks for: the hash
and its mirror image, and the cases of the results. The databases alternate, so that a slow machine slows both.
Postgres gets a gigabyte for its buffers, and holds a million hashes with their indexes in them before the first search.
Times are by the clock and of CPU, in Postgres and here together. On a machine with other work the clock means little.
"""

import itertools
import random
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from uuid import UUID

import psycopg
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.servers import new_database, without_indexes
from benchmarks.show import Row, growth, options, report
from moderation.database.connection import Database
from moderation.evidence.related import related_to
from moderation.likeness import BITS, NEAR, to_bits
from moderation.local import Stack, scratch_folder

#: Hashes are digests of their numbers: spread evenly, like those of unlike pictures. Foreign keys are off meanwhile.
_FILL = """
SET LOCAL session_replication_role = replica;
SET LOCAL statement_timeout = 0;
INSERT INTO hashes (hash) SELECT ('x' || encode(sha256(n::text::bytea), 'hex'))::bit(256)
FROM generate_series(1, {count}) AS n;
INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version, ready_at, campaign)
SELECT uuidv7(), 'source-' || id % 10, '\\x00', 'flagged', id || '.jpg', 0, 'decided', 3, now(), id
FROM hashes ORDER BY id LIMIT 2000;
INSERT INTO case_hashes (case_id, hash_id, mirrored, quality, faces)
SELECT c.id, h.id, ('x' || encode(sha256((-h.id)::text::bytea), 'hex'))::bit(256), 100, '{{}}'
FROM cases c JOIN hashes h ON h.id = c.campaign;
"""

_INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE indexname ~ '^hashes_(word|turned)_'"
#: Read the table and its indexes into the buffers, as in a server that has run for a while.
_WARM = """
SELECT pg_prewarm('hashes'), sum(pg_prewarm(indexrelid)) FROM pg_index WHERE indrelid = 'hashes'::regclass
"""


@dataclass(frozen=True)
class Filled:
    count: int
    database: Database
    cases: Sequence[UUID]


@contextmanager
def server() -> Generator[str]:
    """A Postgres with room for the whole index in its buffers."""
    with scratch_folder() as folder:
        with Stack(folder) as stack:
            url = stack.start_servers().database_url
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET shared_buffers = '1GB'")
        with Stack(folder) as stack:
            yield stack.start_servers().database_url


def fill(server_url: str, count: int) -> Filled:
    url = new_database(server_url, f"related_{count}")
    with psycopg.connect(url) as connection, without_indexes(connection, _INDEXES):
        connection.execute(_FILL.format(count=count).encode())
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET statement_timeout = 0")
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CREATE EXTENSION pg_prewarm")
        connection.execute(_WARM)
        rows = connection.execute("SELECT case_id FROM case_hashes LIMIT 1000").fetchall()
    return Filled(count, Database(url, pool_size=1), [row[0] for row in rows])


@dataclass(frozen=True)
class Took:
    """Milliseconds of one query: by the clock, and of CPU, in Postgres and here."""

    clock: float
    cpu: float


class Watch:
    """Times one query, by CPU and by the clock."""

    def __init__(self, filled: Filled, session: Session) -> None:
        self._server = Path(f"/proc/{session.scalar(text('SELECT pg_backend_pid()'))}/schedstat")
        self._filled = filled

    def __enter__(self) -> Self:
        self._cpu, self._clock = self._spent(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        clock = time.perf_counter() - self._clock
        self.took = Took(1000 * clock, 1000 * (self._spent() - self._cpu))

    def _spent(self) -> float:
        """Seconds on a CPU so far: the server's process for this connection, and this thread."""
        return int(self._server.read_text().split()[0]) / 1e9 + time.thread_time()


def search(filled: Filled, draw: random.Random) -> Took:
    """One search. Raise AssertionError when it misses what it must find."""
    number = draw.randint(1, filled.count)
    query = text("SELECT hash_id, distance FROM near_hashes(CAST(:hash AS bit(256)))")
    with filled.database.reading() as session:
        stored = int(str(session.scalar(text("SELECT hash FROM hashes WHERE id = :id"), {"id": number})), 2)
        flipped = draw.sample(range(BITS), draw.randint(0, NEAR))
        wanted = to_bits(stored ^ sum(1 << bit for bit in flipped))
        with Watch(filled, session) as watch:
            found = {row.hash_id: row.distance for row in session.execute(query, {"hash": wanted})}
        assert found[number] == len(flipped)
        if draw.random() < 0.05:
            everything = text(
                "SELECT id, bit_count(hash # CAST(:hash AS bit(256))) FROM hashes"
                f" WHERE bit_count(hash # CAST(:hash AS bit(256))) <= {NEAR}"
            )
            assert found == {row[0]: row[1] for row in session.execute(everything, {"hash": wanted})}
    return watch.took


def panel(filled: Filled, draw: random.Random) -> Took:
    """The cases that look like one."""
    case_id = draw.choice(filled.cases)
    with filled.database.reading() as session, Watch(filled, session) as watch:
        related_to(session, case_id)
    return watch.took


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1000, help="of each kind at each size")
    asked = parser.parse_args()
    works: dict[str, Callable[[Filled, random.Random], Took]] = {"search": search, "panel": panel}
    spent: dict[tuple[str, int], list[Took]] = {}
    draw = random.Random(18)
    with server() as url:
        sizes = [fill(url, count) for count in (asked.small, asked.large)]
        with sizes[1].database.reading() as session:
            size = session.scalar(text("SELECT pg_total_relation_size('hashes')"))
        for turn in range(-20, asked.rounds):
            for (name, work), filled in itertools.product(works.items(), sizes):
                took = work(filled, draw)
                if turn >= 0:  # the first ones warm everything up
                    spent.setdefault((name, filled.count), []).append(took)
        for filled in sizes:
            filled.database.close()
    rows = list[Row]()
    figures: dict[str, float] = {"bytes_per_hash": round(int(size or 0) / asked.large)}
    for name, kind in itertools.product(works, ("clock", "cpu")):
        times = {
            filled.count: [getattr(took, kind) for took in spent[name, filled.count]] for filled in sizes
        }
        shown, found = growth(f"{name}, {kind}", f"{name}_{kind}", "hashes", times)
        rows += shown
        figures |= found
    rows.append(("on disk", f"{figures['bytes_per_hash']} bytes a hash", "table and indexes"))
    report("Related cases: who looks like this picture", rows, {"related": figures}, as_json=asked.json)


if __name__ == "__main__":
    main()
