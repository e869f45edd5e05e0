"""How throughput grows with worker processes, on one Postgres and one broker, and what load adds to a case's latency.

    python -m benchmarks.scale [--workers 1,2,4,8,16] [--seconds 20] [--group-seconds 4] [--slots 4] [--json]

Workers, broker, database and store are real; only the model is not: it sleeps for `group-seconds` for a group of at
most `slots` faces, like a process whose GPU computes. The time is chosen so that this machine's cores can run all
processes: with two cores, sixteen workers of one image a second each.

1. Throughput: with a backlog, cases recorded in a window of `seconds`, by the events in Postgres. Efficiency is this
   number over (workers × the number of one worker). Beside it is the throughput of the engines alone.
2. Latency: cases arrive at random times at 50, 80 and 95 % of what the workers can do. Added latency is the time from
   acceptance to the record, minus the engine's time for one group.
3. With --rolling, only this: every worker is stopped and started again in turn while cases arrive at 50 % load. The
   result is the state of the cases, and how long they took.
4. Cost: CPU of worker, Postgres and broker per case, with an extrapolation for one Postgres.
"""

import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import psutil
from sqlalchemy import text

from benchmarks.servers import settings_of, start_worker
from benchmarks.show import options, p99, report
from moderation.cases import ImageRef
from moderation.database.cases import Opening, insert_cases
from moderation.database.connection import Database
from moderation.dispatch import Publisher, WorkKind
from moderation.local import (
    Stack,
    prepare_database,
    scratch_folder,
    service_env,
    sweeper_command,
    wait_for_worker,
)
from moderation.storage import Storage
from tests.builders import a_flag

#: Workers of the latency part, and its loads.
LATENCY_WORKERS = 4
LOADS = (0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Bench:
    stack: Stack
    env: dict[str, str]
    database: Database
    publisher: Publisher
    image: ImageRef
    group_seconds: float
    slots: int

    @property
    def engine_rate(self) -> float:
        """Images a second of one engine with full groups."""
        return self.slots / self.group_seconds


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--workers", default="1,2,4,8,16")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--group-seconds", type=float, default=4)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--rolling", action="store_true", help="Only the rolling restart, with four workers")
    asked = parser.parse_args()
    if asked.rolling:
        _report_rolling(asked.group_seconds, asked.slots, as_json=asked.json)
        return
    counts = [int(count) for count in asked.workers.split(",")]
    with scratch_folder() as folder, Stack(folder) as stack:
        bench = _open(stack, asked.group_seconds, asked.slots)
        rates: dict[int, float] = {}
        cost: dict[str, float] = {}
        latencies: dict[float, tuple[float, float]] = {}
        running = 0
        for count in counts:
            _start_workers(bench, range(running, count))
            running = count
            rates[count], cost = _throughput(bench, count, asked.seconds)
            if count == LATENCY_WORKERS:
                latencies = {load: _latency(bench, count, load, asked.seconds) for load in LOADS}
        bench.database.close()
    alone = rates[counts[0]] / counts[0]
    efficiency = {count: rate / (count * alone) for count, rate in rates.items()}
    rows = [
        (
            f"{count} workers",
            f"{rate:.2f} images/s",
            f"efficiency {efficiency[count]:.3f}, engines alone {count * bench.engine_rate:.1f}",
        )
        for count, rate in rates.items()
    ]
    rows += [
        (
            f"{LATENCY_WORKERS} workers at {load:.0%} load",
            f"{p50:.2f} s added",
            f"95th percentile {p95:.2f} s",
        )
        for load, (p50, p95) in latencies.items()
    ]
    rows += [
        (f"CPU of {part} per case", f"{ms:.1f} ms", f"with {counts[-1]} workers") for part, ms in cost.items()
    ]
    figures = {
        "scale": {
            **{f"images_per_second_{count}": round(rate, 3) for count, rate in rates.items()},
            **{f"efficiency_{count}": round(value, 4) for count, value in efficiency.items()},
            **{
                f"added_seconds_{round(load * 100)}": {"median": round(p50, 3), "p95": round(p95, 3)}
                for load, (p50, p95) in latencies.items()
            },
            "cpu_ms_per_case": {part: round(ms, 2) for part, ms in cost.items()},
            "group_seconds": asked.group_seconds,
            "slots": asked.slots,
            "load_average": psutil.getloadavg()[0],
        }
    }
    title = f"engines of {bench.engine_rate:.1f} images/s each, on {psutil.cpu_count()} cores"
    report(title, rows, figures, as_json=asked.json)


def _open(stack: Stack, group_seconds: float, slots: int) -> Bench:
    env = {
        **stack.start_servers().settings(),
        "BENCHMARK_GROUP_SECONDS": str(group_seconds),
        "BENCHMARK_SLOTS": str(slots),
        # Two groups: one in the model and one ready for it. More would only hold leases that others could use.
        "BONAFIDE_WORKER_THREADS": str(2 * slots),
        "BONAFIDE_LOG_LEVEL": "warning",
    }
    prepare_database(env["BONAFIDE_DATABASE_URL"])
    settings = settings_of(env)
    stack.spawn("sweeper", sweeper_command(), env=service_env(env, "bonafide_sweeper"))
    image = Storage(settings).put_image("bench/one.jpg", random.Random(1).randbytes(20_000), "image/jpeg")
    return Bench(
        stack,
        env,
        Database(settings.database_url.get_secret_value()),
        Publisher(settings.broker_url.get_secret_value(), at_most=settings.messages_at_most),
        image,
        group_seconds,
        slots,
    )


def _start_workers(bench: Bench, numbers: range) -> None:
    for number in numbers:
        start_worker(bench.stack, bench.env, name=f"worker{number}", app="benchmarks.scale_worker")
    for number in numbers:
        wait_for_worker(bench.stack, name=f"worker{number}")


def _accept(bench: Bench, count: int) -> list[UUID]:
    openings = [Opening(a_flag(image=bench.image), publish=True) for _ in range(count)]
    with bench.database.transaction() as session:
        insert_cases(session, openings, actor="platform:bench")
    ids = [opening.id for opening in openings]
    bench.publisher.publish(WorkKind.ANALYSIS, ids)
    return ids


def _throughput(bench: Bench, workers: int, seconds: float) -> tuple[float, dict[str, float]]:
    """Cases a second with a backlog, and the CPU milliseconds of one case by part."""
    settle = 2 * bench.group_seconds
    # Enough for the start, the window, and a rest that keeps every worker busy until the end.
    _accept(bench, int(workers * bench.engine_rate * (seconds + settle) + 3 * workers * 2 * bench.slots))
    time.sleep(settle)
    cpu, began, before = _cpu(bench), time.perf_counter(), _count(bench, "analyses")
    time.sleep(seconds)
    after, spent, ended = _count(bench, "analyses"), time.perf_counter() - began, _cpu(bench)
    assert _count(bench, "cases WHERE state = 'waiting'") > 0, "the backlog ran out within the window"
    _until_done(bench)
    cases = max(1, after - before)
    return cases / spent, {part: 1000 * (ended[part] - cpu[part]) / cases for part in cpu}


def _latency(bench: Bench, workers: int, load: float, seconds: float) -> tuple[float, float]:
    """Median and 95th percentile of the seconds from acceptance to record beyond the engine's own."""
    chance = random.Random(round(load * 100))
    rate = load * workers * bench.engine_rate
    ids: list[UUID] = []
    due = time.perf_counter()
    until = due + 2 * seconds
    while due < until:
        due += chance.expovariate(rate)
        time.sleep(max(0.0, due - time.perf_counter()))
        ids += _accept(bench, 1)
    _until_done(bench)
    waited = text("SELECT extract(epoch FROM ready_at - created_at) FROM cases WHERE id = ANY(:ids)")
    with bench.database.transaction() as session:
        values = [float(value) - bench.group_seconds for value in session.scalars(waited, {"ids": ids})]
    return statistics.median(values), statistics.quantiles(values, n=20)[18]


def _report_rolling(group_seconds: float, slots: int, *, as_json: bool) -> None:
    with scratch_folder() as folder, Stack(folder) as stack:
        bench = _open(stack, group_seconds, slots)
        _start_workers(bench, range(LATENCY_WORKERS))
        facts = _rolling(bench, LATENCY_WORKERS, LOADS[0])
        bench.database.close()
    rows = [(what, f"{value:g}", "") for what, value in facts.items()]
    report("a rolling restart of four workers at 50 % load", rows, {"rolling": facts}, as_json=as_json)


def _rolling(bench: Bench, workers: int, load: float) -> dict[str, float]:
    """Restart every worker in turn while cases arrive. Seconds are from acceptance to record."""
    ids: list[UUID] = []
    done = threading.Event()

    def arrive() -> None:
        chance = random.Random(4)
        while not done.is_set():
            time.sleep(chance.expovariate(load * workers * bench.engine_rate))
            ids.extend(_accept(bench, 1))

    arriving = threading.Thread(target=arrive)
    arriving.start()
    began = time.perf_counter()
    time.sleep(2 * bench.group_seconds)
    for number in range(workers):
        bench.stack.stop_process(f"worker{number}", timeout=60)
        _start_workers(bench, range(number, number + 1))
    spent = time.perf_counter() - began
    done.set()
    arriving.join()
    _until_done(bench)
    query = text("""
        SELECT extract(epoch FROM c.ready_at - c.created_at) AS seconds, c.attempts,
               c.refusal_code IS NOT NULL AS refused,
               (SELECT count(*) FROM analyses a WHERE a.case_id = c.id) AS analyses
        FROM cases c WHERE c.id = ANY(:ids)
    """)
    with bench.database.transaction() as session:
        rows = session.execute(query, {"ids": ids}).all()
    seconds = [float(row.seconds) for row in rows]
    return {
        "cases": len(ids),
        "lost": sum(row.analyses == 0 for row in rows) + len(ids) - len(rows),
        "analysed twice": sum(row.analyses > 1 for row in rows),
        "without a verdict": sum(row.refused for row in rows),
        "attempts lost": sum(row.attempts - 1 for row in rows),
        "median seconds": round(statistics.median(seconds), 2),
        "p99 seconds": round(p99(seconds), 2),
        "restarting seconds": round(spent, 1),
    }


def _count(bench: Bench, rows: str) -> int:
    with bench.database.transaction() as session:
        return session.scalar(text(f"SELECT count(*) FROM {rows}")) or 0


def _until_done(bench: Bench) -> None:
    while _count(bench, "cases WHERE state IN ('waiting', 'analyzing')"):
        time.sleep(0.2)


def _cpu(bench: Bench) -> dict[str, float]:
    """CPU seconds so far of the workers together, of Postgres with all its backends, and of the broker."""
    spent = {"the worker": 0.0, "Postgres": 0.0, "the broker": 0.0}
    parts = {"valkey": "the broker", "postgres": "Postgres", "celery": "the worker"}
    for process in psutil.Process().children(recursive=True):
        try:
            words: Sequence[str] = process.cmdline()
            times = process.cpu_times()
        except psutil.Error:
            continue
        program = " ".join(words[:4])
        part = next((name for mark, name in parts.items() if mark in program), None)
        if part is not None:
            spent[part] += times.user + times.system
    return spent


if __name__ == "__main__":
    main()
