"""The control arm: the same faults, against the same servers, on a plain Celery worker.

Without it nobody knows whether the campaign is harsh: it must lose cases that we do not. Lost: no result, and nothing
in Redis that could still bring one. Stuck: no result, and a message that goes round. Duplicated: more than one result.
"""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from moderation.database.ids import new_id
from moderation.dispatch import ANALYSIS_QUEUE
from moderation.local import service_env, worker_command
from tests.chaos.campaign import Round, play
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.pictures import Planned
from tests.chaos.yard import Submitted, Yard, open_yard

#: Those that a plain worker can have too. Poison last: it goes round for ever, and takes workers from all that follow.
FAULTS_OF_BOTH = (
    "none",
    "worker SIGKILL",
    "all workers SIGKILL",
    "Redis restarted",
    "Redis FLUSHALL",
    "messages lost",
    "messages repeated, reordered",
    "dies before the commit",
    "dies after the commit",
    "poison pictures",
)
#: Seconds after which a round goes on without those that have no result: many times the visibility timeout.
ROUND_AT_MOST = 90.0

#: Orders of one call.
GROUP = 8

_TABLES = """
    CREATE TABLE plain_orders (id uuid PRIMARY KEY, key text NOT NULL);
    CREATE TABLE plain_results (id bigserial PRIMARY KEY, order_id uuid NOT NULL REFERENCES plain_orders,
                                outcome text NOT NULL);
"""


@dataclass(frozen=True)
class Plain:
    """What became of the cases of one fault."""

    cases: int
    lost: int
    stuck: int
    duplicated: int
    #: Results of the case that has the most.
    most: int


class PlainYard(Yard):
    """The same servers, and plain workers in the place of ours."""

    def start(self, *, workers: int) -> None:
        self.ask(_TABLES)
        env = {**self._env(), "BONAFIDE_S3_ENDPOINT_URL": self.store.url}
        for index in range(workers):
            name = f"worker-{index}"
            command = worker_command(name=name)
            command[command.index("worker.app")] = "tests.chaos.plain_worker"
            command[command.index("threads")] = "prefork"
            ready = {"BONAFIDE_READY_FILE": str(self.ready_file(name))}
            self._keep(name, [*command, "-c", "2"], {**service_env(env), **ready})
        for name in self.workers:
            self.stack.wait_for(name, self.ready_file(name).exists)

    def submit(self, planned: Sequence[Planned], *, name: str, seed: int, within: float) -> Submitted:
        """Write the orders, then send a message each; again until it was sent, as a client does."""
        chance = random.Random(seed)
        accepted: dict[UUID, Planned] = {}
        slowest = 0.0
        with Celery(broker=self.addresses.broker_url) as sender:
            sender.conf.task_default_queue = ANALYSIS_QUEUE
            keys = [f"{name}/{index:04d}.jpg" for index in range(len(planned))]
            for key, one in zip(keys, planned, strict=True):
                self._put(key, one)
            for start in range(0, len(planned), GROUP):
                began = time.monotonic()
                group = {new_id(): key for key in keys[start : start + GROUP]}
                insert = "INSERT INTO plain_orders (id, key) SELECT * FROM unnest(%s::uuid[], %s::text[])"
                self.ask(insert, list(group), list(group.values()))
                for order, key in group.items():
                    _send(sender, order, key)
                slowest = max(slowest, time.monotonic() - began)
                accepted |= dict(zip(group, planned[start:], strict=False))
                self.accepted = len(accepted)
                time.sleep(chance.random() * 2 * within * len(group) / len(planned))
        return Submitted(accepted, (), slowest)

    def unfinished(self, ids: Sequence[UUID]) -> list[Any] | None:
        return self.ask(
            "SELECT id FROM plain_orders WHERE id = ANY(%s) AND id NOT IN (SELECT order_id FROM plain_results)",
            list(ids),
        )

    def in_redis(self) -> str:
        """All that could still bring a result: what is queued and what is not acknowledged."""
        broker: Any = redis.Redis.from_url(self.addresses.broker_url, decode_responses=True)
        queues = [key for key in broker.keys(f"{ANALYSIS_QUEUE}*") if broker.type(key) == "list"]
        messages = [message for key in queues for message in broker.lrange(key, 0, -1)]
        return " ".join([*messages, *broker.hvals("unacked")])


def _send(sender: Celery, order: UUID, key: str) -> None:
    while True:
        with contextlib.suppress(OperationalError):
            sender.send_task("analyze", args=[str(order), key])
            return
        time.sleep(0.2)


def run_plain(folder: Path, *, per_fault: int, seed: int, workers: int = 3) -> Mapping[str, Plain]:
    """So many cases under each fault in turn; what became of them, looked at when all rounds are over."""
    chance = random.Random(seed)
    rounds: list[Round] = []
    with open_yard(folder, PlainYard, workers=workers, seed=seed) as yard, ThreadPoolExecutor(1) as submitter:
        for number, fault in enumerate(faults_of_both()):
            rounds.append(play(yard, submitter, number, [fault], per_fault, chance, at_most=ROUND_AT_MOST))
        results = Counter(row.order_id for row in yard.ask("SELECT order_id FROM plain_results"))
        left = yard.in_redis()
    return {turn.faults[0]: _outcome(turn, results, left) for turn in rounds}


def faults_of_both() -> list[Fault]:
    return [fault for name in FAULTS_OF_BOTH for fault in FAULTS if fault.name == name]


def _outcome(turn: Round, results: Counter[UUID], left: str) -> Plain:
    without = [id_ for id_ in turn.accepted if results[id_] == 0]
    stuck = [id_ for id_ in without if str(id_) in left]
    return Plain(
        cases=len(turn.accepted),
        lost=len(without) - len(stuck),
        stuck=len(stuck),
        duplicated=sum(results[id_] > 1 for id_ in turn.accepted),
        most=max(results[id_] for id_ in turn.accepted),
    )
