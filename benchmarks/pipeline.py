"""What one image costs on its way through a worker, stage by stage, if the model costs nothing.

    python -m benchmarks.pipeline [--images 300] [--json]

1. Each stage alone, in one thread of one process: CPU milliseconds per image, by the process's own clock. Evidence
   is gathered here too; in a worker the child that decodes does it, after it has handed over the pixels.
   Beside it the round trips to Postgres, by Postgres's own log: statements, BEGIN, COMMIT and pings.
2. The whole way with a real worker on real servers: images per second, the worker's CPU per image, and commands of
   Redis and commits of Postgres per image.
3. A Celery task that does nothing, on the same broker, pool and threads: the limit of the queue alone.
"""

import random
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import psycopg
import redis
import torch
from celery import Celery

from benchmarks.quiet_worker import quiet
from benchmarks.servers import open_cases, settings_of, start_worker, wait_until_ready
from benchmarks.show import options, report
from moderation.cases import ImageRef
from moderation.database.analyses import find_analysis_of_bytes, record_analysis
from moderation.database.connection import Database
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.pixels import crop_face, decode_picture
from moderation.evidence.gather import Gatherer
from moderation.evidence.options import Options
from moderation.local import (
    Stack,
    prepare_database,
    scratch_folder,
    service_env,
    sweeper_command,
    wait_for_worker,
    worker_command,
)
from moderation.settings import Settings
from moderation.storage import Storage
from tests.acceptance.flood import portrait
from tests.builders import new_id
from worker.analysis import ANALYZE
from worker.lifecycle import close_station, open_station
from worker.run import take

NOOPS = 3000
#: Seconds between two looks at the progress.
LOOK = 0.05


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=300)
    asked = parser.parse_args()
    with scratch_folder() as folder, Stack(folder) as stack:
        env = stack.start_servers().settings()
        prepare_database(env["BONAFIDE_DATABASE_URL"])
        settings = settings_of(env)
        refs = _put(settings, asked.images, "bench", seed=1)
        stages, trips = _by_stage(stack, settings, refs[: min(100, len(refs))])
        rate, cpu, commands, commits = _whole_road(stack, env, settings, refs)
        noop = _noop(stack, env)
    rows = [(f"{stage}, one thread", f"{ms:.2f} ms CPU", "") for stage, ms in stages.items()]
    rows += [
        ("all stages, one thread", f"{sum(stages.values()):.2f} ms CPU", "their sum"),
        ("the whole way", f"{rate:.1f} images/s", f"{cpu:.1f} ms CPU of the worker per image"),
        ("round trips to Postgres", f"{trips:.1f} per image", "one image alone, from lease to record"),
        ("commits of Postgres", f"{commits:.1f} per image", "the whole way, with sweeper and heartbeats"),
        ("commands of Redis", f"{commands:.1f} per image", "the same"),
        ("a Celery task that does nothing", f"{noop:,.0f} tasks/s", "same broker, pool and threads"),
    ]
    figures = {
        "pipeline": {
            "images_per_second": round(rate, 2),
            "cpu_ms_per_image": round(cpu, 2),
            "postgres_round_trips_per_image": round(trips, 2),
            "postgres_commits_per_image": round(commits, 2),
            "redis_commands_per_image": round(commands, 2),
            "noop_tasks_per_second": round(noop, 1),
            "stage_cpu_ms": {stage: round(ms, 3) for stage, ms in stages.items()},
        }
    }
    report(f"{asked.images} portraits of about 0.14 megapixels", rows, figures, as_json=asked.json)


def _put(settings: Settings, count: int, folder: str, *, seed: int) -> list[ImageRef]:
    """New pictures, other ones for another seed: for known bytes the database has the answer."""
    storage, chance = Storage(settings), random.Random(seed)
    return [storage.put_image(f"{folder}/{n}.jpg", portrait(chance), "image/jpeg") for n in range(count)]


class Stopwatch:
    """CPU seconds of this process per stage, all its threads counted."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Generator[None]:
        began = time.process_time()
        yield
        self.spent[stage] = self.spent.get(stage, 0.0) + time.process_time() - began


def _by_stage(stack: Stack, settings: Settings, refs: list[ImageRef]) -> tuple[dict[str, float], float]:
    """CPU milliseconds per image and stage, and round trips to Postgres per image, one image after the other."""
    torch.set_num_threads(1)  # as the worker does
    _log_statements(settings, "all")
    detector, gatherer = quiet(), Gatherer(Options())
    station = open_station(settings, detector)
    cases = open_cases(station.database, refs)
    watch, said = Stopwatch(), 0
    for number, (case_id, ref) in enumerate(zip(cases, refs, strict=True)):
        if number == 5:  # the first few load nets and open connections
            watch.spent.clear()
            said = _statements(stack)
        with ExitStack() as lease:
            with watch("lease"):
                begun = lease.enter_context(take(station, ANALYZE, case_id))
            assert begun is not None
            with watch("fetch"):
                fetched = station.storage.fetch_image(ref)
            with watch("decode"):
                picture = decode_picture(fetched.data)
            with watch("evidence"):
                gatherer.gather(fetched.data, picture)
            with watch("faces"):
                crops = [FaceCrop(face, crop_face(picture, face, 224)) for face in find_faces(picture)]
            with station.database.reading() as session:
                assert find_analysis_of_bytes(session, fetched.sha256, detector.fingerprint) is None
            with watch("queue"):
                asked = [station.serving.batcher.submit(crop, timeout=5) for crop in crops]
                faces = [one.answer.result(5) for one in asked]
            prepared = Prepared(picture.facts, tuple(crops))
            analysis = detector.conclude(prepared, faces)
            with watch("record"), station.database.transaction() as session:
                record_analysis(session, case_id, begun.token, analysis, actor=station.actor, new_id=new_id())
    trips = (_statements(stack) - said) / (len(refs) - 5)
    close_station(station, why="measured")
    _log_statements(settings, "none")
    return {stage: seconds * 1000 / (len(refs) - 5) for stage, seconds in watch.spent.items()}, trips


def _log_statements(settings: Settings, which: str) -> None:
    """What Postgres logs about each new connection."""
    url = settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET log_statement = '{which}'".encode())


def _statements(stack: Stack) -> int:
    """Round trips so far: each is a line of Postgres's log."""
    said = (stack.folder / "logs/postgres.log").read_text()
    return said.count("LOG:  statement: ") + said.count("LOG:  execute ")


def _whole_road(
    stack: Stack, env: dict[str, str], settings: Settings, refs: list[ImageRef]
) -> tuple[float, float, float, float]:
    """Images per second through a real worker. Per image: CPU milliseconds, Redis commands, Postgres commits."""
    database = Database(settings.database_url.get_secret_value())
    worker = psutil.Process(start_worker(stack, env, app="benchmarks.quiet_worker"))
    wait_for_worker(stack)
    stack.spawn("sweeper", sweeper_command(), env=service_env(env, "bonafide_sweeper"))
    wait_until_ready(database, open_cases(database, refs[:20]), look=LOOK)
    fresh = _put(settings, len(refs), "bench/again", seed=2)
    before, counted = worker.cpu_times(), _served(settings)
    started = time.perf_counter()
    wait_until_ready(database, open_cases(database, fresh), look=LOOK)
    seconds = time.perf_counter() - started
    after = worker.cpu_times()
    commands, commits = (now - then for now, then in zip(_served(settings), counted, strict=True))
    stack.stop_process("worker")
    database.close()
    count = len(refs)
    # Our own looks at the progress are commits too.
    commits -= seconds / LOOK
    cpu = after.user + after.system - before.user - before.system
    return count / seconds, 1000 * cpu / count, commands / count, commits / count


def _served(settings: Settings) -> tuple[int, int]:
    """Commands of the broker and commits of Postgres so far."""
    broker = redis.Redis.from_url(settings.broker_url.get_secret_value())
    info: Any = broker.info("stats")
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        row = connection.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    assert row is not None
    return int(info["total_commands_processed"]), int(row[0])


def _noop(stack: Stack, env: dict[str, str]) -> float:
    """Tasks per second of the bare Celery worker."""
    broker = redis.Redis.from_url(env["BONAFIDE_BROKER_URL"])
    noop_app = Celery("noop", broker=env["BONAFIDE_BROKER_URL"])
    noop_app.conf.task_default_queue = "noop"
    with noop_app.producer_pool.acquire() as producer:
        for _ in range(NOOPS):
            noop_app.send_task("noop", args=[str(new_id())], producer=producer)
    command = [part.replace("worker.app", "benchmarks.noop_worker") for part in worker_command(name="noop")]
    stack.spawn("noop", command, env=service_env(env))
    while broker.llen("noop") > NOOPS - 200:
        time.sleep(0.01)
    started, first = time.perf_counter(), broker.llen("noop")
    while (left := broker.llen("noop")) > 0:
        time.sleep(0.01)
    return (first - left) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
