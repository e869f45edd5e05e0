"""Messages nobody can process: kept for an engineer instead of dropped. No case depends on one."""

from queue import Empty
from typing import Any, Literal

import structlog
from celery.worker.consumer import Consumer
from kombu.transport import redis as redis_transport
from kombu.utils.json import dumps, loads

from moderation.database.operations import insert_dead_letter
from moderation.dispatch import ANALYSIS_QUEUE
from moderation.errors import BonafideError
from worker import lifecycle
from worker.credit import Credit
from worker.telemetry import DEAD_LETTERS

log = structlog.get_logger()


def keep_dead_letter(body: str, error: str) -> None:
    """Write the message to the table of dead letters; to the log when Postgres does not answer."""
    DEAD_LETTERS.inc()
    try:
        with lifecycle.station().database.transaction() as session:
            insert_dead_letter(session, queue=ANALYSIS_QUEUE, body=body, error=error)
    except BonafideError as problem:
        log.error("dead_letter_not_kept", action="dead_letter", body=body[:500], error=str(problem))


class KeepingChannel(redis_transport.Channel):
    """Kombu's Redis channel, which also survives what is not a message at all.

    In kombu 5.7 an item that is not JSON raises out of the consuming loop: one stray LPUSH ends every worker that meets
    it. There is no hook before that point, hence this private method; a test pushes nonsense and holds it to work.
    """

    QoS = Credit

    def _brpop_read(self, **options: Any) -> Literal[True]:
        try:
            reply = self.client.parse_response(self.client.connection, "BRPOP", **options)
        except self.connection_errors:
            self.client.connection.disconnect()  # so that the next round makes a new one
            raise
        finally:
            self._in_poll = None
            getattr(self, "_flush_brpop_reauth", lambda: None)()
        if not reply:
            raise Empty
        place, item = (part.decode("utf-8", "replace") if isinstance(part, bytes) else part for part in reply)
        queue = place.rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        message = _message(item)
        if message is None:
            keep_dead_letter(item, "not a message")
        else:
            self.connection._deliver(message, queue)  # noqa: SLF001  as the method it replaces does
        return True


def _message(item: str) -> dict[str, Any] | None:
    """The message in an item of the queue, or None when it is none."""
    try:
        message = loads(item)
    except ValueError:
        return None
    properties = message.get("properties") if isinstance(message, dict) else None
    if not isinstance(properties, dict) or "body" not in message or "delivery_tag" not in properties:
        return None
    return message


redis_transport.Transport.Channel = KeepingChannel


class KeepingConsumer(Consumer):
    """Celery's consumer, which also keeps what it refuses, and says when it waits for the broker."""

    def ensure_connected(self, conn: Any) -> Any:
        with lifecycle.waiting_for_broker():
            return super().ensure_connected(conn)

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
