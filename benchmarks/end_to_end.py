"""How much of its engine a real worker uses: the whole way compared with the engine alone, in one run.

    python -m benchmarks.end_to_end [--bundle mini | --layout tiny] [--device cpu] [--images 120] [--workers 1] [--json]
    python -m benchmarks.end_to_end --layout llava-1.5-7b --device cuda --images 2000 --json    # random weights

1. The engine alone: the faces of the same pictures, cut out before and in memory, as fast as it can. It runs before
   and after the whole way, so that a slow machine slows both.
2. The whole way: real worker processes on real Postgres, Redis and S3, with all cases waiting. Images a second between
   the first and the last tenth, by the events' times; the engines' busy seconds, by the workers' own metric.

Two ratios: images a second of the whole way over those of the engine alone (times the workers), and the share of time
in which the engine had work. On a CPU the worker's other stages take the engine's cores; on a GPU they run beside it.
"""

import argparse
import platform
import random
import time
from collections.abc import Sequence
from uuid import UUID

import httpx
import torch
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from benchmarks.servers import open_cases, settings_of, start_worker, wait_until_ready
from benchmarks.show import options, report
from moderation.database.connection import Database
from moderation.dfa.gpt.crops import FaceCrop
from moderation.dfa.gpt.detector import Detector
from moderation.dfa.gpt.layouts import random_bundle
from moderation.local import (
    Stack,
    free_port,
    prepare_database,
    scratch_folder,
    service_env,
    sweeper_command,
    wait_for_worker,
)
from moderation.serving import policy_of
from moderation.settings import Settings
from moderation.storage import Storage
from tests.acceptance.flood import portrait

#: Share of the images at each end that is not counted: there the workers start and run out of work.
EDGE = 0.1
#: Seconds between two looks at the progress.
LOOK = 0.2


def main() -> None:
    asked = _arguments()
    with scratch_folder() as folder:
        bundle = asked.bundle or str(random_bundle(folder / "bundle", asked.layout).folder)
        chance = random.Random(1)
        pictures = [portrait(chance) for _ in range(asked.images)]
        with Stack(folder) as stack:
            env = {
                **stack.start_servers().settings(),
                "BONAFIDE_BUNDLE": bundle,
                "BONAFIDE_DEVICE": asked.device,
                "BONAFIDE_WORKER_THREADS": str(asked.threads),
            }
            prepare_database(env["BONAFIDE_DATABASE_URL"])
            settings = settings_of(env)
            detector = _load(settings)
            crops = [crop for data in pictures for crop in detector.prepare(data).crops]
            before = _alone(detector, crops)
            rate, busy = _road(stack, env, settings, pictures, asked.workers)
            after = _alone(detector, crops)
    faces = len(crops) / len(pictures)
    alone = (before + after) / 2 / faces
    device = torch.cuda.get_device_name() if asked.device.startswith("cuda") else "CPU"
    figures = {
        "end_to_end": {
            "bundle": asked.bundle or f"{asked.layout}, random weights",
            "device": device,
            "workers": asked.workers,
            "images": asked.images,
            "faces_per_image": round(faces, 3),
            "engine_alone_images_per_second": round(alone, 3),
            "engine_alone_before_and_after": [round(before / faces, 3), round(after / faces, 3)],
            "road_images_per_second": round(rate, 3),
            "road_over_engine_alone": round(rate / (alone * asked.workers), 3),
            "engine_busy_share": round(busy, 3),
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
    }
    rows = [
        (
            "the engine alone",
            f"{alone:.2f} images/s",
            f"{before / faces:.2f} before, {after / faces:.2f} after",
        ),
        ("the whole way", f"{rate:.2f} images/s", f"{asked.workers} worker processes"),
        ("road ÷ engine alone", f"{rate / (alone * asked.workers):.2f}", "aim on a GPU: 0.95"),
        ("engine busy", f"{busy:.0%} of the time", "mean of the workers"),
    ]
    title = f"{asked.images} portraits of {faces:.2f} faces, {asked.bundle or asked.layout}, {device}"
    report(title, rows, figures, as_json=asked.json)


def _arguments() -> argparse.Namespace:
    parser = options(__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--bundle", help="a bundle's folder, or `mini`")
    which.add_argument(
        "--layout", default="small", help="tiny, small, llava-1.5-tiny or llava-1.5-7b; random weights"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--workers", type=int, default=1, help="processes; more than one share the device")
    parser.add_argument("--threads", type=int, default=16, help="BONAFIDE_WORKER_THREADS")
    return parser.parse_args()


def _load(settings: Settings) -> Detector:
    """As a worker loads it, on the same device."""
    torch.set_num_threads(1)
    detector = Detector.load(settings.bundle, device=settings.device, policy=policy_of(settings), room=0.5)
    detector.warm()
    return detector


def _alone(detector: Detector, crops: Sequence[FaceCrop]) -> float:
    """Faces a second with nothing else to do."""
    started = time.perf_counter()
    detector.analyze(crops)
    return len(crops) / (time.perf_counter() - started)


def _road(
    stack: Stack, env: dict[str, str], settings: Settings, pictures: Sequence[bytes], workers: int
) -> tuple[float, float]:
    """Images a second through real workers, and their engines' busy share of that time."""
    storage, chance = Storage(settings), random.Random(2)
    database = Database(settings.database_url.get_secret_value())
    ports = [free_port() for _ in range(workers)]
    names = [f"worker-{number}" for number in range(workers)]
    for name, port in zip(names, ports, strict=True):
        start_worker(stack, {**env, "BONAFIDE_METRICS_PORT": str(port)}, name=name)
    for name in names:
        wait_for_worker(stack, name=name)
    stack.spawn("sweeper", sweeper_command(), env=service_env(env, "bonafide_sweeper"))
    warm = [storage.put_image(f"warm-{n}.jpg", portrait(chance), "image/jpeg") for n in range(4 * workers)]
    wait_until_ready(database, open_cases(database, warm), look=LOOK)
    refs = [storage.put_image(f"{n}.jpg", data, "image/jpeg") for n, data in enumerate(pictures)]
    cases = open_cases(database, refs)
    edge = max(1, int(EDGE * len(cases)))
    wait_until_ready(database, cases, edge, look=LOOK)
    busy, began = _busy(ports), time.monotonic()
    wait_until_ready(database, cases, len(cases) - edge, look=LOOK)
    busy, spent = _busy(ports) - busy, time.monotonic() - began
    wait_until_ready(database, cases, look=LOOK)
    rate = _rate(database, cases, edge)
    for name in names:
        stack.stop_process(name)
    database.close()
    return rate, busy / (spent * workers)


def _rate(database: Database, cases: Sequence[UUID], edge: int) -> float:
    """Images a second without the first and the last tenth, by the times of their events."""
    when = text(
        "SELECT at FROM events WHERE case_id = ANY(:ids) AND kind IN ('analyzed', 'refused') ORDER BY at"
    )
    with database.transaction() as session:
        times = session.scalars(when, {"ids": list(cases)}).all()
    first, last = times[edge], times[-1 - edge]
    return (len(times) - 1 - 2 * edge) / (last - first).total_seconds()


def _busy(ports: Sequence[int]) -> float:
    """Seconds so far in which the engines of these workers had work."""
    return sum(
        sample.value
        for port in ports
        for family in text_string_to_metric_families(httpx.get(f"http://127.0.0.1:{port}/metrics").text)
        for sample in family.samples
        if sample.name == "bonafide_engine_busy_seconds_total"
    )


if __name__ == "__main__":
    main()
