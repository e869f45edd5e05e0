"""Dispatch: publishes messages for committed rows. A message carries one id: of a case, a question or a rerun.

A message may be lost, repeated or late; the row is the truth. A task is known by its name only, so nothing that
publishes imports the worker.
"""

import base64
import enum
import json
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import KombuError
from kombu.messaging import Producer
from prometheus_client import Counter
from redis.exceptions import RedisError
from sqlalchemy.orm import Session

from moderation.addresses import read_broker
from moderation.database.connection import Database, after_commit, in_transaction
from moderation.database.work import CASES, QUESTIONS, RERUNS, Work
from moderation.errors import BrokerUnavailable
from moderation.triage import Lane

#: The queue of cases to analyse, and the task that takes one.
ANALYSIS_QUEUE = "analysis"
ANALYZE_CASE = "analyze_case"
#: The same for cases that can wait: see `triage.Lane`.
BACKFILL_QUEUE = "backfill"
#: The queue of questions to answer, and the task that takes one. A person waits for each, so cases never stand in
#: front of them.
QUESTION_QUEUE = "questions"
ANSWER_QUESTION = "answer_question"
#: The task that measures what a case's score depends on. A person who opened the case waits for it too.
MEASURE_CASE = "measure_case"
#: The queue of cases to analyse again, and the task that takes one. Nobody waits for them.
RERUN_QUEUE = "reruns"
RERUN_CASE = "rerun_case"
#: All queues, in the order in which workers look at them.
LANES = (QUESTION_QUEUE, ANALYSIS_QUEUE, BACKFILL_QUEUE, RERUN_QUEUE)


class WorkKind(enum.Enum):
    """What a message asks for: its task and its queue."""

    ANALYSIS = (ANALYZE_CASE, ANALYSIS_QUEUE)
    BACKFILL = (ANALYZE_CASE, BACKFILL_QUEUE)
    QUESTION = (ANSWER_QUESTION, QUESTION_QUEUE)
    RERUN = (RERUN_CASE, RERUN_QUEUE)
    #: No row stands for this. The next person who opens the case asks for it again.
    MEASUREMENT = (MEASURE_CASE, QUESTION_QUEUE)

    @property
    def task(self) -> str:
        return self.value[0]

    @property
    def queue(self) -> str:
        return self.value[1]


#: The kind of message for a case of a lane.
OF_LANE = {Lane.LIVE: WorkKind.ANALYSIS, Lane.BACKFILL: WorkKind.BACKFILL}
#: The rows behind the messages of a kind, for the kinds that the sweeper publishes again.
WORK: dict[WorkKind, Work] = {
    WorkKind.ANALYSIS: CASES,
    WorkKind.BACKFILL: CASES,
    WorkKind.QUESTION: QUESTIONS,
    WorkKind.RERUN: RERUNS,
}

#: Seconds that a caller waits for the broker, at most.
ANSWERS_WITHIN = 1.0
#: Seconds without a try after the broker did not answer, so that intake does not wait for it with every case.
QUIET_AFTER_FAILURE = 3.0

_PUBLISHED = Counter("bonafide_messages_published", "Messages, and whether the broker took them", ["outcome"])

log = structlog.get_logger()


def broker_options(*, visibility_timeout: float) -> dict[str, object]:
    """How every connection to Redis is made, here and in the worker."""
    return {
        # An unacknowledged message comes back after this. It is longer than any analysis; we rely on leases.
        "visibility_timeout": visibility_timeout,
        # By default the check runs every 100 s or so, which delays redelivery by as much (measured).
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        # Without a timeout we would wait for a vanished peer for ever (measured).
        "socket_timeout": 10,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }


@dataclass
class Published:
    """The result of publishing after a commit."""

    #: Ids that were published.
    count: int = 0
    #: Ids that did not reach the queue. The sweeper publishes them at its next look.
    left: int = 0


class Publisher:
    """Publishes messages about cases, questions and reruns. Safe to share between threads.

    It has one connection, for one thread at a time. A thread that waits too long leaves its ids to the sweeper. With a
    pool of connections, a broker that accepts but does not answer blocked every thread of the API (measured).
    """

    def __init__(self, broker_url: str, *, at_most: int) -> None:
        """`at_most`: messages on one queue. Raise SetupProblem for an address that cannot be read."""
        self._at_most = at_most
        self._quiet_until = 0.0
        self._held = threading.Lock()
        self._producer: Producer | None = None
        self._app = Celery("bonafide-publisher", broker=read_broker(broker_url).kombu_url)
        self._app.conf.update(
            task_default_queue=ANALYSIS_QUEUE,
            task_serializer="json",
            task_ignore_result=True,
            # One try: a caller waits, and the sweeper has time.
            broker_transport_options={
                **broker_options(visibility_timeout=3600),
                "socket_timeout": ANSWERS_WITHIN,
                "socket_connect_timeout": ANSWERS_WITHIN,
                "max_retries": 1,
                "interval_start": 0,
            },
            broker_connection_timeout=ANSWERS_WITHIN,
        )

    def publish(self, kind: WorkKind, ids: Sequence[UUID]) -> int:
        """Publish committed ids in this order; return how many. The sweeper publishes the others.

        Inside a transaction, which may be rolled back, use `publish_after_commit`.
        """
        assert not in_transaction(), "a message is published after the commit"
        if not ids or time.monotonic() < self._quiet_until:
            return 0
        count = 0
        try:
            with self._connected() as producer:
                for row_id in ids[: self._room(producer, kind)]:
                    self._app.send_task(
                        kind.task, args=[str(row_id)], queue=kind.queue, producer=producer, retry=False
                    )
                    count += 1
        except BrokerUnavailable as error:
            self._quiet_until = time.monotonic() + QUIET_AFTER_FAILURE
            _PUBLISHED.labels("failed").inc(len(ids) - count)
            log.warning("not_published", action="dispatch", error=str(error), left=len(ids) - count)
        _PUBLISHED.labels("published").inc(count)
        return count

    def publish_after_commit(
        self, session: Session, kind: WorkKind, ids: Sequence[UUID], *, unless_queued: bool = False
    ) -> Published:
        """Publish these ids once the session is committed; a rollback publishes nothing. The session marks them.

        `unless_queued` leaves out ids whose message is still on the queue.
        """
        published = Published()

        def publish(database: Database) -> None:
            lost = self.without_message(kind, ids) if unless_queued else ids
            published.count = self.publish(kind, lost)
            published.left = len(lost) - published.count
            if published.left:
                with database.transaction() as later:
                    WORK[kind].mark_unpublished(later, lost[published.count :])

        if ids:
            after_commit(session, publish)
        return published

    def depth(self, *queues: str) -> int:
        """Messages on these queues now; without names, on the queues of cases. Raise BrokerUnavailable."""
        with self._connected() as producer:
            return sum(_depth(producer, queue) for queue in queues or (ANALYSIS_QUEUE, BACKFILL_QUEUE))

    def without_message(self, kind: WorkKind, ids: Sequence[UUID]) -> list[UUID]:
        """The ids whose message is not on the queue; all of them while the broker does not answer.

        A message that a worker has taken is not on the queue. The row says what came of it.
        """
        if not ids:
            return []
        try:
            with self._connected() as producer:
                there = _ids_on(producer, kind.queue, at_most=self._at_most)
        except BrokerUnavailable:
            return list(ids)
        return [row_id for row_id in ids if row_id not in there]

    def _room(self, producer: Producer, kind: WorkKind) -> int | None:
        """How many messages the queue has room for. None: any number, because somebody waits for each question."""
        return None if kind is WorkKind.QUESTION else max(0, self._at_most - _depth(producer, kind.queue))

    @contextmanager
    def _connected(self) -> Generator[Producer]:
        """The one connection, made when there is none. Raise BrokerUnavailable; the next call then makes a new one."""
        if not self._held.acquire(timeout=ANSWERS_WITHIN):
            raise BrokerUnavailable("the broker does not answer", inside="another thread is waiting for it")
        try:
            producer = self._producer or Producer(self._app.connection_for_write(), auto_declare=False)
            self._producer = producer
            yield producer
        except (KombuError, RedisError, OSError) as error:
            self._disconnect()
            raise BrokerUnavailable("the broker does not answer", inside=str(error)) from error
        finally:
            self._held.release()

    def _disconnect(self) -> None:
        """Drop the connection and tell its other end nothing: it may not be listening."""
        producer, self._producer = self._producer, None
        connection: Any = None if producer is None else producer.connection
        if connection is not None:
            connection.collect(socket_timeout=0.1)


def _depth(producer: Any, queue: str) -> int:
    return int(producer.channel.client.llen(queue))


def _ids_on(producer: Any, queue: str, *, at_most: int) -> set[UUID | None]:
    return {_id_of(message) for message in producer.channel.client.lrange(queue, 0, at_most - 1)}


def _id_of(message: bytes) -> UUID | None:
    """The id that a message carries. None: the message is not ours, and a worker keeps it as a dead letter."""
    try:
        (only,), *_ = json.loads(base64.b64decode(json.loads(message)["body"]))
        return UUID(only)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
