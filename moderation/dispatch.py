"""The doorbell: puts ids of cases and of questions on their queues.

A message may be lost, repeated or late; the row is the truth. The task is dispatched by its name, so nothing here, or
in anything that rings, imports the worker.
"""

import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import structlog
from celery import Celery
from kombu.exceptions import KombuError
from prometheus_client import Counter
from redis.exceptions import RedisError

from moderation.errors import BrokerUnavailable

#: The queue of cases to analyse, and the task that takes one.
ANALYSIS_QUEUE = "analysis"
ANALYZE_CASE = "analyze_case"
#: The queue of questions to answer, and the task that takes one. A person waits for each: they stand in no line of
#: cases.
QUESTION_QUEUE = "questions"
ANSWER_QUESTION = "answer_question"

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
    """Rings for cases and questions. Safe to share between threads."""

    def __init__(self, broker_url: str, *, bells_at_most: int) -> None:
        self._bells_at_most = bells_at_most
        self._quiet_until = 0.0
        self._app = Celery("bonafide-doorbell", broker=broker_url)
        self._app.conf.update(
            task_default_queue=ANALYSIS_QUEUE,
            task_serializer="json",
            task_ignore_result=True,
            # One try: whoever rings has a caller waiting, and the sweeper has time.
            broker_transport_options={
                **broker_options(visibility_timeout=3600),
                "max_retries": 1,
                "interval_start": 0,
            },
            broker_connection_timeout=3,
        )

    def dispatch_case(self, case_id: UUID) -> bool:
        """Ring for one committed case. False when the broker did not answer: the sweeper will ring."""
        return self.dispatch_cases([case_id]) == 1

    def dispatch_cases(self, case_ids: Sequence[UUID]) -> int:
        """Ring for committed cases in this order; return for how many. Never raises for want of a broker."""
        if time.monotonic() < self._quiet_until:
            return 0
        rung = 0
        try:
            with self._app.producer_pool.acquire(block=True, timeout=3) as producer:
                room = self._bells_at_most - _depth(producer)
                for case_id in case_ids[: max(0, room)]:
                    self._app.send_task(ANALYZE_CASE, args=[str(case_id)], producer=producer, retry=False)
                    rung += 1
        except (KombuError, RedisError, OSError) as error:
            self._fell_silent(error, left=len(case_ids) - rung)
        _BELLS.labels("rung").inc(rung)
        return rung

    def ring_questions(self, question_ids: Sequence[UUID]) -> int:
        """Ring for committed questions; return for how many. Never raises for want of a broker."""
        if time.monotonic() < self._quiet_until:
            return 0
        rung = 0
        try:
            with self._app.producer_pool.acquire(block=True, timeout=3) as producer:
                for question_id in question_ids:
                    self._app.send_task(
                        ANSWER_QUESTION,
                        args=[str(question_id)],
                        queue=QUESTION_QUEUE,
                        producer=producer,
                        retry=False,
                    )
                    rung += 1
        except (KombuError, RedisError, OSError) as error:
            self._fell_silent(error, left=len(question_ids) - rung)
        _BELLS.labels("rung").inc(rung)
        return rung

    def depth(self, queue: str = ANALYSIS_QUEUE) -> int:
        """Messages on a queue now. Raise BrokerUnavailable."""
        try:
            with self._app.producer_pool.acquire(block=True, timeout=3) as producer:
                return _depth(producer, queue)
        except (KombuError, RedisError, OSError) as error:
            raise BrokerUnavailable(f"the broker does not answer: {error}") from error

    def _fell_silent(self, error: Exception, *, left: int) -> None:
        self._quiet_until = time.monotonic() + QUIET_AFTER_FAILURE
        # The next try makes a new connection instead of taking the broken one from the pool.
        self._app.pool.force_close_all(close_pool=False)
        _BELLS.labels("failed").inc(left)
        log.warning("bell_not_rung", action="dispatch", error=str(error), left=left)


def _depth(producer: Any, queue: str = ANALYSIS_QUEUE) -> int:
    return int(producer.channel.client.llen(queue))
