"""The doorbell: puts ids of cases, of questions and of reruns on their queues.

A message may be lost, repeated or late; the row is the truth. The task is dispatched by its name, so nothing here, or
in anything that rings, imports the worker.
"""

import base64
import json
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import KombuError
from kombu.messaging import Producer
from prometheus_client import Counter
from redis.exceptions import RedisError

from moderation.addresses import read_broker
from moderation.errors import BrokerUnavailable
from moderation.triage import Lane

#: The queue of cases to analyse, and the task that takes one.
ANALYSIS_QUEUE = "analysis"
ANALYZE_CASE = "analyze_case"
#: The same for cases that can wait: see `triage.Lane`.
BACKFILL_QUEUE = "backfill"
#: The queue of questions to answer, and the task that takes one. A person waits for each: they stand in no line of
#: cases.
QUESTION_QUEUE = "questions"
ANSWER_QUESTION = "answer_question"
#: The task that measures what a case's score depends on: a person who opened the case waits for it too.
MEASURE_CASE = "measure_case"
#: The queue of cases to analyse once more, and the task that takes one. Nobody waits for them.
RERUN_QUEUE = "reruns"
RERUN_CASE = "rerun_case"
#: All queues, in the order in which workers look at them.
LANES = (QUESTION_QUEUE, ANALYSIS_QUEUE, BACKFILL_QUEUE, RERUN_QUEUE)
QUEUE_OF = {Lane.LIVE: ANALYSIS_QUEUE, Lane.BACKFILL: BACKFILL_QUEUE}

#: Seconds that whoever rings waits for the broker, at most.
ANSWERS_WITHIN = 1.0
#: Seconds without a try after the broker did not answer: intake must not wait for it with every case.
QUIET_AFTER_FAILURE = 3.0

_BELLS = Counter("bonafide_bells_rung", "Bells, and whether the broker took them", ["outcome"])

log = structlog.get_logger()


def broker_options(*, visibility_timeout: float) -> dict[str, object]:
    """How every connection to Redis is made, here and in the worker."""
    return {
        # An unacknowledged message comes back after this. Longer than any analysis; leases are what we rely on.
        "visibility_timeout": visibility_timeout,
        # By default the check runs every 100 s or so, which delays redelivery by as much (measured).
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        # With no timeout a peer that vanished without a word is waited for for ever (measured).
        "socket_timeout": 10,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }


class Doorbell:
    """Rings for cases, questions and reruns. Safe to share between threads.

    One connection and one thread at a time: whoever finds the bell held for long leaves it to the sweeper. With a pool
    of connections a broker that accepts and says nothing took every thread of the API, one after the other (measured).
    """

    def __init__(self, broker_url: str, *, bells_at_most: int) -> None:
        """Raise SetupProblem for an address that cannot be read."""
        self._bells_at_most = bells_at_most
        self._quiet_until = 0.0
        self._held = threading.Lock()
        self._producer: Producer | None = None
        self._app = Celery("bonafide-doorbell", broker=read_broker(broker_url).kombu_url)
        self._app.conf.update(
            task_default_queue=ANALYSIS_QUEUE,
            task_serializer="json",
            task_ignore_result=True,
            # One try: whoever rings has a caller waiting, and the sweeper has time.
            broker_transport_options={
                **broker_options(visibility_timeout=3600),
                "socket_timeout": ANSWERS_WITHIN,
                "socket_connect_timeout": ANSWERS_WITHIN,
                "max_retries": 1,
                "interval_start": 0,
            },
            broker_connection_timeout=ANSWERS_WITHIN,
        )

    def dispatch_case(self, case_id: UUID, lane: Lane = Lane.LIVE) -> bool:
        """Ring for one committed case. False when the broker did not answer: the sweeper will ring."""
        return self.dispatch_cases([case_id], lane) == 1

    def dispatch_cases(self, case_ids: Sequence[UUID], lane: Lane = Lane.LIVE) -> int:
        """Ring for committed cases in this order; return for how many. Never raises for want of a broker."""
        return self._ring(ANALYZE_CASE, case_ids, queue=QUEUE_OF[lane], at_most=self._bells_at_most)

    def ring_questions(self, question_ids: Sequence[UUID]) -> int:
        """Ring for committed questions; return for how many. Never raises for want of a broker."""
        return self._ring(ANSWER_QUESTION, question_ids, queue=QUESTION_QUEUE, at_most=None)

    def ring_measuring(self, case_id: UUID) -> bool:
        """Ring for a case whose effects are to be measured. False when the broker did not answer."""
        return self._ring(MEASURE_CASE, [case_id], queue=QUESTION_QUEUE, at_most=self._bells_at_most) == 1

    def ring_reruns(self, rerun_ids: Sequence[UUID]) -> int:
        """Ring for committed reruns in this order; return for how many. Never raises for want of a broker."""
        return self._ring(RERUN_CASE, rerun_ids, queue=RERUN_QUEUE, at_most=self._bells_at_most)

    def depth(self, *queues: str) -> int:
        """Messages on these queues now; on those of cases when none is named. Raise BrokerUnavailable."""
        with self._ringing() as producer:
            return sum(_depth(producer, queue) for queue in queues or QUEUE_OF.values())

    def without_bell(self, ids: Sequence[UUID], queue: str) -> list[UUID]:
        """Those of these whose bell is not on the queue; all of them while the broker does not answer.

        A bell that a worker has taken is not on the queue: whether anything came of it the row says.
        """
        if not ids:
            return []
        try:
            with self._ringing() as producer:
                there = _ids_on(producer, queue, at_most=self._bells_at_most)
        except BrokerUnavailable:
            return list(ids)
        return [one for one in ids if one not in there]

    def _ring(self, task: str, ids: Sequence[UUID], *, queue: str, at_most: int | None) -> int:
        if time.monotonic() < self._quiet_until:
            return 0
        rung = 0
        try:
            with self._ringing() as producer:
                room = len(ids) if at_most is None else max(0, at_most - _depth(producer, queue))
                for one in ids[:room]:
                    self._app.send_task(task, args=[str(one)], queue=queue, producer=producer, retry=False)
                    rung += 1
        except BrokerUnavailable as error:
            self._quiet_until = time.monotonic() + QUIET_AFTER_FAILURE
            _BELLS.labels("failed").inc(len(ids) - rung)
            log.warning("bell_not_rung", action="dispatch", error=str(error), left=len(ids) - rung)
        _BELLS.labels("rung").inc(rung)
        return rung

    @contextmanager
    def _ringing(self) -> Generator[Producer]:
        """The one connection, made when there is none. Raise BrokerUnavailable; the next call makes a new one then."""
        if not self._held.acquire(timeout=ANSWERS_WITHIN):
            raise BrokerUnavailable("the broker does not answer: another thread is waiting for it")
        try:
            producer = self._producer or Producer(self._app.connection_for_write(), auto_declare=False)
            self._producer = producer
            yield producer
        except (KombuError, RedisError, OSError) as error:
            self._hang_up()
            raise BrokerUnavailable(f"the broker does not answer: {error}") from error
        finally:
            self._held.release()

    def _hang_up(self) -> None:
        """Drop the connection without a word to its other end, which may not be listening."""
        producer, self._producer = self._producer, None
        connection: Any = None if producer is None else producer.connection
        if connection is not None:
            connection.collect(socket_timeout=0.1)


def _depth(producer: Any, queue: str = ANALYSIS_QUEUE) -> int:
    return int(producer.channel.client.llen(queue))


def _ids_on(producer: Any, queue: str, *, at_most: int) -> set[UUID | None]:
    return {_id_of(message) for message in producer.channel.client.lrange(queue, 0, at_most - 1)}


def _id_of(message: bytes) -> UUID | None:
    """The id that a message carries. None: it is none of ours, and a worker keeps it as a dead letter."""
    try:
        (only,), *_ = json.loads(base64.b64decode(json.loads(message)["body"]))
        return UUID(only)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
