"""Dead letters: messages that nobody can process. They are kept for an engineer, and no case depends on one."""

from typing import Any

import structlog
from celery.worker.consumer import Consumer
from kombu.utils.json import dumps

from moderation.database.operations import insert_dead_letter
from moderation.errors import BonafideError
from worker import lifecycle, privates
from worker.telemetry import DEAD_LETTERS

log = structlog.get_logger()


def keep_dead_letter(body: str, error: str, *, queue: str) -> None:
    """Store a queue's message as a dead letter. Log it when Postgres does not answer."""
    DEAD_LETTERS.inc()
    try:
        with lifecycle.station().database.transaction() as session:
            insert_dead_letter(session, queue=queue, body=body, error=error)
    except BonafideError as problem:
        log.error("dead_letter_not_kept", action="dead_letter", body=body[:500], error=str(problem))


class KeepingChannel(privates.TolerantChannel):
    """Keeps as dead letters the items that are no messages. A test pushes nonsense to check it."""

    def keep(self, item: str, error: str, *, queue: str) -> None:
        keep_dead_letter(item, error, queue=queue)


privates.use_channel(KeepingChannel)


class KeepingConsumer(Consumer):
    """Celery's consumer. It also keeps refused messages, and says when it waits for the broker."""

    def ensure_connected(self, conn: Any) -> Any:
        with lifecycle.waiting_for_broker():
            return super().ensure_connected(conn)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        _keep(message, "not a task message")
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        _keep(message, f"unknown task: {exc}")
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        _keep(message, f"invalid task message: {exc}")
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        _keep(message, f"unreadable: {exc}")
        super().on_decode_error(message, exc)


def _keep(message: Any, error: str) -> None:
    keep_dead_letter(_text(message), error, queue=message.delivery_info["routing_key"])


def _text(message: Any) -> str:
    """The message as it came: headers, which name the task, and body."""
    body = message.body
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    named = {name: (message.headers or {}).get(name) for name in ("task", "id", "argsrepr")}
    return dumps({"headers": named, "content_type": message.content_type, "body": text})
