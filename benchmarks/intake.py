"""How fast cases are accepted, single and in batches, compared with a bare psycopg insert of the same rows.

    python -m benchmarks.intake [--cases 20000] [--json]

The API is one uvicorn process; Postgres writes durably. "Bare" inserts the same rows (cases and their first
events, into the same tables with the same indexes and triggers) with psycopg's executemany, 1,000 cases a commit.
The three ways alternate, so that a slow machine slows all of them.
"""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psycopg
from psycopg.types.json import Jsonb

from benchmarks.show import options, report
from moderation.cases import Flag, ImageRef
from moderation.client import BonaFide
from moderation.local import Stack, free_port, prepare_database, scratch_folder, service_env, web_command
from tests.builders import new_id

BATCH = 1000
ROUNDS = 5
THREADS = 8


def a_flag(number: int, round_: str) -> dict[str, Any]:
    return {
        "image": {"bucket": "flagged", "key": f"uploads/2026/11/23/{round_}/{number}.jpg"},
        "source": "profile-photos",
        "external_id": f"{round_}-{number}",
        "reason": "reported by a user",
        "context": {"user": number, "surface": "profile"},
    }


def bare(url: str, count: int, round_: str) -> float:
    """Rows per second without our code."""
    rows = [_row(a_flag(number, round_)) for number in range(count)]
    started = time.perf_counter()
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        for at in range(0, count, BATCH):
            chunk = rows[at : at + BATCH]
            cursor.executemany(
                "INSERT INTO cases (id, source, external_id, request_digest, bucket, key, reason, priority, context,"
                " state, version) VALUES (%s, %s, %s, %s, %s, %s, %s, 0, %s, 'waiting', 1)",
                chunk,
            )
            cursor.executemany(
                "INSERT INTO events (case_id, kind, actor, body, seq, previous, hash)"
                " VALUES (%s, 'accepted', 'platform:bench', %s, 0, '', '')",
                [(row[0], Jsonb({"request": row[3].hex()})) for row in chunk],
            )
            connection.commit()
    return count / (time.perf_counter() - started)


def _row(flag: dict[str, Any]) -> tuple[Any, ...]:
    source, external_id, reason, context = (
        flag[name] for name in ("source", "external_id", "reason", "context")
    )
    image = ImageRef(**flag["image"])
    digest = Flag(image, source, external_id, reason, 0, context).digest()
    return new_id(), source, external_id, digest, image.bucket, image.key, reason, Jsonb(context)


def batch(client: BonaFide, count: int, round_: str) -> float:
    """Cases per second through `POST /v1/cases/batch`, a thousand a call, as the client sees it."""
    flags = [a_flag(number, round_) for number in range(count)]
    started = time.perf_counter()
    outcomes = list(client.submit_many(flags))
    seconds = time.perf_counter() - started
    assert all(outcome.status == 202 for outcome in outcomes)
    return count / seconds


def single(client: BonaFide, count: int, round_: str) -> float:
    """Cases per second through `POST /v1/cases`, eight callers at once."""
    flags = [a_flag(number, round_) for number in range(count)]
    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda flag: _submit(client, **flag), flags))
    return count / (time.perf_counter() - started)


def _submit(client: BonaFide, *, image: dict[str, str], **flag: Any) -> None:
    client.submit(ImageRef(**image), **flag)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="through each way but the single one")
    asked = parser.parse_args()
    each = max(BATCH, asked.cases // ROUNDS)
    rates: dict[str, list[float]] = {"bare": [], "batch": [], "single": []}
    with scratch_folder() as folder, Stack(folder) as stack:
        url, client = _start(stack)
        ways: dict[str, Callable[[str], float]] = {
            "bare": lambda round_: bare(url, each, round_),
            "batch": lambda round_: batch(client, each, round_),
            "single": lambda round_: single(client, max(200, each // 10), round_),
        }
        for round_ in range(ROUNDS + 1):
            for way, run in ways.items():
                rate = run(f"{way}-{round_}")
                if round_ > 0:  # the first warms everything up
                    rates[way].append(rate)
    median = {way: statistics.median(values) for way, values in rates.items()}
    slower = statistics.median(b / a for b, a in zip(rates["bare"], rates["batch"], strict=True))
    rows = [
        ("bare psycopg insert", f"{median['bare']:,.0f} cases/s", "1,000 cases and their events a commit"),
        ("POST /v1/cases/batch", f"{median['batch']:,.0f} cases/s", f"{slower:.2f} × slower than bare"),
        ("POST /v1/cases", f"{median['single']:,.0f} cases/s", f"{THREADS} callers at once"),
    ]
    figures = {
        "intake": {
            "batch_over_bare": round(1 / slower, 3),
            "bare_over_batch": round(slower, 3),
            "bare_per_second": round(median["bare"]),
            "batch_per_second": round(median["batch"]),
            "single_per_second": round(median["single"]),
        }
    }
    report("Intake: medians of five rounds", rows, figures, as_json=asked.json)


def _start(stack: Stack) -> tuple[str, BonaFide]:
    """Postgres and the API without a worker or a sweeper, to measure only the intake."""
    addresses = stack.start_servers()
    port = free_port()
    env = {**addresses.settings(), "BONAFIDE_MESSAGES_AT_MOST": "1000000"}
    key = prepare_database(env["BONAFIDE_DATABASE_URL"])
    stack.spawn("web", web_command(port), env=service_env(env, "bonafide_intake"))
    url = f"http://127.0.0.1:{port}"
    stack.wait_for("web", lambda: httpx.get(f"{url}/readyz", timeout=2).status_code == 200)
    return addresses.database_url, BonaFide(url, key)


if __name__ == "__main__":
    main()
