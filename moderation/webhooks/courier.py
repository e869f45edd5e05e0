"""Webhooks: signed by Standard Webhooks, sent by the sweeper, tried for a day, and only to public addresses.

A platform may get a webhook twice: a try whose answer was lost is repeated under the same webhook-id. Webhooks may also
come out of order: `data.version` says which is newer.
"""

import json
import random
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

import httpcore
import prometheus_client
import structlog
from standardwebhooks import Webhook

from moderation.database.connection import Database
from moderation.errors import BonafideError
from moderation.settings import Settings
from moderation.webhooks import delivery_rows as rows
from moderation.webhooks.delivery_rows import Claimed
from moderation.webhooks.post import RETRY_AFTER_AT_MOST, TryFailed, post
from moderation.webhooks.turns import TRIES_AT_ONCE, Turns

#: Seconds between a failed try and the next one: nine tries within 23.6 hours. Each wait has up to a fifth of jitter.
WAITS = (5, 60, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 8 * 3600, 8 * 3600)
TRIES = len(WAITS) + 1

#: Seconds for one try, from the look-up of the name to the end of the answer.
TIMEOUT = 10.0
#: Seconds after which a delivery is tried again when its sender is silent.
HOLD = 60.0

#: Connections to Postgres of one courier. A sender holds one only while it records its try.
CONNECTIONS = 8
#: Seconds between two looks for due deliveries.
POLL = 1.0

_TRIED = prometheus_client.Counter("bonafide_deliveries", "Webhooks tried", labelnames=["result"])

log = structlog.get_logger()


def wait_after(attempt: int, jitter: float, *, asked: float | None = None) -> float | None:
    """Seconds until the next try after this failed one. None: it was the last. `jitter` is in [0, 1).

    A receiver may ask for a longer wait, up to an hour. It may not ask for a shorter one: a bad minute would use up all
    its tries.
    """
    if attempt >= TRIES:
        return None
    return max(WAITS[attempt - 1] * (0.8 + 0.4 * jitter), min(asked or 0.0, RETRY_AFTER_AT_MOST))


def sign(claimed: Claimed, body: str, now: datetime) -> dict[str, str]:
    """The headers of Standard Webhooks, with one signature for each valid secret."""
    signatures = [Webhook(secret).sign(str(claimed.id), now, body) for secret in claimed.secrets]
    return {
        "webhook-id": str(claimed.id),
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


class Courier:
    """Sends due deliveries, several at once. Run as many as you like: each takes what no other has taken."""

    def __init__(self, database: Database, settings: Settings, *, timeout: float = TIMEOUT) -> None:
        self._database = database
        self._private = settings.webhook_private_targets
        self._timeout = timeout
        self._tls = httpcore.default_ssl_context()
        self._pool = ThreadPoolExecutor(TRIES_AT_ONCE, thread_name_prefix="courier")
        self._lock = threading.Lock()
        self._turns = Turns()
        self._news = threading.Event()

    def deliver_due(self) -> int:
        """Try everything that is due now once; return how many. Raise DatabaseUnavailable."""
        tried = 0
        while started := self._start():
            wait(started)
            tried += len(started)
        return tried

    def run(self, stop: threading.Event) -> None:
        """Try deliveries as they become due, until `stop`. Wait for what is unavailable."""
        while not stop.is_set():
            try:
                started = self._start()
            except BonafideError as error:
                log.warning("delivery_failed", action="deliver", code=error.code, error=str(error))
                started = []
            if not started:
                self._news.wait(POLL)
                self._news.clear()
        self._pool.shutdown(cancel_futures=True)

    def _start(self) -> list[Future[None]]:
        """Begin the tries that may begin now: see `turns`."""
        with self._lock:
            allowance = self._turns.next(now=time.monotonic())
        with self._database.transaction() as session:
            claim = partial(rows.claim_due, session, per_endpoint=1, hold_seconds=HOLD)
            claimed = claim(limit=allowance.room, busy=allowance.wait)
            claimed += claim(limit=allowance.slow_room, among=allowance.slow)
        with self._lock:
            numbers = [self._turns.begin(due.endpoint_id, now=time.monotonic()) for due in claimed]
        return [self._pool.submit(self._try, *each) for each in zip(claimed, numbers, strict=True)]

    def _try(self, claimed: Claimed, number: int) -> None:
        with structlog.contextvars.bound_contextvars(case=str(claimed.case_id), delivery=str(claimed.id)):
            self._try_once(claimed, number)

    def _try_once(self, claimed: Claimed, number: int) -> None:
        answered_at = time.monotonic()
        try:
            ended = self._sent(claimed)
            answered_at = time.monotonic()  # the receiver's time does not include our recording
            self._write_down(claimed, ended)
        except BonafideError as error:
            # It was not recorded, so it is due again when the hold ends. The receiver knows it by its webhook-id.
            log.warning("delivery_not_recorded", action="deliver", error=str(error))
        except Exception as error:
            log.error("delivery_broke", action="deliver", exc_info=error)
            raise
        finally:
            with self._lock:
                self._turns.end(number, answered_at=answered_at)
            self._news.set()

    def _sent(self, claimed: Claimed) -> int | TryFailed:
        """The status of the answer, or the failure of the try."""
        if claimed.attempt > TRIES:
            return TryFailed("the process that tried it last was not heard of again")
        try:
            return self._send(claimed)
        except TryFailed as failure:
            return failure

    def _write_down(self, claimed: Claimed, ended: int | TryFailed) -> None:
        if isinstance(ended, TryFailed):
            self._failed(claimed, ended)
            return
        _TRIED.labels("delivered").inc()
        with self._database.transaction() as session:
            rows.record_delivered(session, claimed.id, status=ended)

    def _send(self, claimed: Claimed) -> int:
        body = json.dumps(claimed.body, separators=(",", ":"))
        headers = {
            "content-type": "application/json",
            "user-agent": f"bonafide/{version('bonafide-moderation')}",
            **sign(claimed, body, datetime.now(UTC)),
        }
        return post(
            claimed.url, headers, body.encode(), private=self._private, tls=self._tls, timeout=self._timeout
        )

    def _failed(self, claimed: Claimed, failure: TryFailed) -> None:
        jitter = random.random()  # noqa: S311  not a secret
        again_in = wait_after(claimed.attempt, jitter, asked=failure.retry_after)
        _TRIED.labels("dead" if again_in is None else "failed").inc()
        if again_in is None:
            log.error("delivery_given_up", action="deliver", status=failure.status)
        with self._database.transaction() as session:
            rows.record_failed_try(
                session,
                claimed.id,
                attempt=claimed.attempt,
                status=failure.status,
                error=str(failure),
                again_in=again_in,
            )
