"""How long a webhook takes to an endpoint that answers: alone, and beside silent endpoints.

    python -m benchmarks.webhooks [--silent 8] [--webhooks 30] [--rounds 3] [--json]

Real Postgres, a real courier as the sweeper runs it, real HTTP. A webhook's time is from the commit of the case's
move to the arrival at the endpoint that answers. Every silent endpoint gets the same move: it accepts the connection
and never answers. Each round begins with a courier that knows no endpoint. The two ways alternate, so that a slow
machine slows both. Moves come at random moments: the courier looks once a second.
"""

import random
import statistics
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from benchmarks.show import options, report
from moderation.database import schema
from moderation.database.cases import insert_case
from moderation.database.connection import Database
from moderation.database.outbox import Kind, enqueue
from moderation.local import Stack, scratch_folder
from moderation.settings import Settings
from moderation.webhooks.courier import CONNECTIONS, POLL, Courier
from moderation.webhooks.endpoints import Webhooks
from tests.builders import an_opening
from tests.receiver import Receiver, a_receiver

#: Longest wait for one webhook, in seconds.
PATIENCE = 120.0


def seconds_of(
    database: Database, receiver: Receiver, *, webhooks: int, chance: random.Random
) -> list[float]:
    """Seconds from the commit to the arrival of this many webhooks, one after the other."""
    opening = an_opening()
    with database.transaction() as session:
        insert_case(session, opening, actor="platform:bench")
    taken: list[float] = []
    for _ in range(webhooks):
        time.sleep(chance.random() * POLL)
        with database.transaction() as session:
            enqueue(session, Kind.ANALYZED, opening.id)
        committed = time.perf_counter()
        assert receiver.arrived.acquire(timeout=PATIENCE), "the webhook did not arrive"
        taken.append(time.perf_counter() - committed)
    return taken


@contextmanager
def _delivering(database: Database, settings: Settings) -> Generator[None]:
    stop = threading.Event()
    courier = threading.Thread(target=Courier(database, settings).run, args=(stop,))
    courier.start()
    try:
        yield
    finally:
        stop.set()
        courier.join()


def one_round(
    database: Database, settings: Settings, *, silent: int, webhooks: int, seed: int
) -> list[float]:
    """The times beside this many silent endpoints. All endpoints are new, and are removed afterwards."""
    opened = Webhooks(database, settings)
    with ExitStack() as stack:
        silent_ones = [stack.enter_context(a_receiver()) for _ in range(silent)]
        receiver = stack.enter_context(a_receiver())
        for quiet in silent_ones:
            quiet.instead = quiet.hang
            opened.add(quiet.url)
        opened.add(receiver.url)
        with _delivering(database, settings):
            taken = seconds_of(database, receiver, webhooks=webhooks, chance=random.Random(seed))
            for quiet in silent_ones:
                quiet.over.set()
        for endpoint in opened.endpoints():
            opened.remove(endpoint.id)
    return taken


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--silent", type=int, default=8, help="endpoints that never answer")
    parser.add_argument("--webhooks", type=int, default=30, help="each round, to each endpoint")
    parser.add_argument("--rounds", type=int, default=3, help="of each way")
    asked = parser.parse_args()
    taken: dict[int, list[float]] = {0: [], asked.silent: []}
    with scratch_folder() as folder, Stack(folder) as stack:
        url = stack.start_servers().database_url
        database = Database(url, pool_size=CONNECTIONS)
        schema.upgrade(database)
        settings = Settings.model_validate({"database_url": url, "webhook_private_targets": True})
        for number in range(asked.rounds):
            for silent in taken:
                taken[silent] += one_round(
                    database, settings, silent=silent, webhooks=asked.webhooks, seed=number
                )
        database.close()
    alone, beside = (statistics.median(seconds) for seconds in taken.values())
    worst = [max(seconds) for seconds in taken.values()]
    rows = [
        ("alone", f"{alone:.2f} s", f"median of {len(taken[0])}; the longest {worst[0]:.2f} s"),
        (f"beside {asked.silent} silent ones", f"{beside:.2f} s", f"the longest {worst[1]:.2f} s"),
        ("beside over alone", f"{beside / alone:.2f}", "aim: at most 2"),
    ]
    figures = {
        "webhooks": {
            "silent": asked.silent,
            "alone_seconds": round(alone, 3),
            "beside_seconds": round(beside, 3),
            "beside_over_alone": round(beside / alone, 3),
            "longest_alone_seconds": round(worst[0], 3),
            "longest_beside_seconds": round(worst[1], 3),
        }
    }
    report("Webhooks to an endpoint that answers", rows, figures, as_json=asked.json)


if __name__ == "__main__":
    main()
