"""Messages nobody can process: kept for an engineer instead of dropped. No case depends on one."""

from typing import Any

import structlog
from celery.worker.consumer import Consumer
from kombu.utils.json import dumps

from moderation.database.operations import insert_dead_letter
from moderation.dispatch import ANALYSIS_QUEUE
from moderation.errors import BonafideError
from worker.lifecycle import station
from worker.telemetry import DEAD_LETTERS

log = structlog.get_logger()


def keep_dead_letter(body: str, error: str) -> None:
    """Write the message to the table of dead letters; to the log when Postgres does not answer."""
    DEAD_LETTERS.inc()
    try:
        with station().database.transaction() as session:
            insert_dead_letter(session, queue=ANALYSIS_QUEUE, body=body, error=error)
    except BonafideError as problem:
        log.error("dead_letter_not_kept", action="dead_letter", body=body[:500], error=str(problem))


class KeepingConsumer(Consumer):
    """Celery's consumer, which also keeps what it refuses."""

    def on_unknown_message(self, body: Any, message: Any) -> None:
        keep_dead_letter(_text(message), "not a task message")
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        keep_dead_letter(_text(message), f"unknown task: {exc}")
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        keep_dead_letter(_text(message), f"invalid task message: {exc}")
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        keep_dead_letter(_text(message), f"unreadable: {exc}")
        super().on_decode_error(message, exc)


def _text(message: Any) -> str:
    """The message as it came: its headers, which name the task, and its body."""
    body = message.body
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    named = {name: (message.headers or {}).get(name) for name in ("task", "id", "argsrepr")}
    return dumps({"headers": named, "content_type": message.content_type, "body": text})
