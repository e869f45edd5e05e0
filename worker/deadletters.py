"""Messages nobody can process: kept for an engineer instead of dropped. No case depends on one."""

from queue import Empty
from typing import Any, Literal

import structlog
from celery.worker.consumer import Consumer
from kombu.transport import redis as redis_transport
from kombu.utils.json import dumps, loads

from moderation.database.operations import insert_dead_letter
from moderation.errors import BonafideError
from worker import lifecycle
from worker.credit import Credit
from worker.telemetry import DEAD_LETTERS

log = structlog.get_logger()


def keep_dead_letter(body: str, error: str, *, queue: str) -> None:
    """Write the message of that queue to the table of dead letters; to the log when Postgres does not answer."""
    DEAD_LETTERS.inc()
    try:
        with lifecycle.station().database.transaction() as session:
            insert_dead_letter(session, queue=queue, body=body, error=error)
    except BonafideError as problem:
        log.error("dead_letter_not_kept", action="dead_letter", body=body[:500], error=str(problem))


class KeepingChannel(redis_transport.Channel):
    """Kombu's Redis channel, which also survives what is not a message at all.

    In kombu 5.7 an item that is no message, or an odd one, raises out of the consuming loop: one stray LPUSH ends
    every worker that meets it. There is no hook before that point, hence this private method; a test pushes nonsense
    and holds it to work.
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
        self._hand_over(item, queue)
        return True

    def _hand_over(self, item: str, queue: str) -> None:
        """Give the message in an item to the consumer, and keep whatever is none or makes the consumer stumble."""
        tag = None
        try:
            message = self._message(item)
            # Where it lay, whatever its sender says.
            message["properties"]["delivery_info"]["routing_key"] = queue
            tag = message["properties"]["delivery_tag"]
            self.connection._deliver(message, queue)  # noqa: SLF001  as the method that is replaced does
        except Exception as error:
            if tag is None:
                keep_dead_letter(item, f"not a message: {type(error).__name__}", queue=queue)
                return
            if self._is_of_broker(error):
                raise
            log.error("message_failed", action="dead_letter", queue=queue, exc_info=error)
            keep_dead_letter(item, f"nobody could receive it: {type(error).__name__}: {error}", queue=queue)
            self.basic_reject(tag)

    def _message(self, item: str) -> dict[str, Any]:
        """The message in an item of the queue, all that kombu reads of it tried. Raise anything when it is none."""
        message = loads(item)
        properties = message["properties"]
        place = properties["delivery_info"]
        # Text, all of it, and such as Redis takes.
        "".join(
            [message["body"], properties["delivery_tag"], place["exchange"], place["routing_key"]]
        ).encode()
        if not isinstance(message["headers"], dict):
            raise TypeError("headers")
        self.Message(message, channel=self)
        return message

    def _is_of_broker(self, error: Exception) -> bool:
        """Whether Redis, and not the message, is at fault. Kombu counts KeyError as such: here it is the message's."""
        errors = (*self.connection.connection_errors, *self.connection.channel_errors)
        return isinstance(error, errors) and not isinstance(error, KeyError)


redis_transport.Transport.Channel = KeepingChannel


class KeepingConsumer(Consumer):
    """Celery's consumer, which also keeps what it refuses, and says when it waits for the broker."""

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
    """The message as it came: its headers, which name the task, and its body."""
    body = message.body
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)
    named = {name: (message.headers or {}).get(name) for name in ("task", "id", "argsrepr")}
    return dumps({"headers": named, "content_type": message.content_type, "body": text})
