"""What we use of kombu and Celery (5.7) that they do not document, each with upstream's thread. Tests check it.

No other module calls, replaces or reads such parts of them.
"""

from queue import Empty
from typing import Any, Literal

import structlog
from celery.apps import worker as celery_worker
from kombu.transport import redis as redis_transport
from kombu.transport.virtual import base
from kombu.utils.json import loads

log = structlog.get_logger()


class Prefetch(redis_transport.QoS):
    """Kombu's count of messages at work. It counts a message as done even when Redis did not hear the acknowledgement.

    Kombu counts a message as done only once Redis confirms. If Redis goes away at that moment, the message is counted
    for ever. After as many such messages as threads the worker takes nothing more, although Redis is back. For us a
    message is a hint: a second delivery changes nothing.

    https://github.com/celery/celery/issues/8384 has the same outcome; https://github.com/celery/kombu/pull/2007, which
    closed it, mends the connection and not this count.
    """

    def ack(self, delivery_tag: str) -> None:
        """Raise what kombu raises when Redis did not hear."""
        try:
            super().ack(delivery_tag)
        except self.channel.connection_errors:
            base.QoS.ack(self, delivery_tag)
            raise

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002  as kombu calls it
        """As `ack`."""
        try:
            super().reject(delivery_tag, requeue=requeue)
        except self.channel.connection_errors:
            base.QoS.ack(self, delivery_tag)
            raise


class TolerantChannel(redis_transport.Channel):
    """Kombu's Redis channel, which also survives items that are no messages.

    In kombu an item that is no message, or an odd one, raises out of the consuming loop: one stray LPUSH ends every
    worker that takes it. There is no hook before that point, so this overrides a private method.

    https://github.com/celery/celery/issues/1113: an item that is no JSON ended five workers of seven. It is closed, and
    kombu still reads items so.
    """

    QoS = Prefetch

    def keep(self, item: str, error: str, *, queue: str) -> None:
        """Keep an item that nobody can process."""
        raise NotImplementedError

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
        """Give the message to the consumer. Keep it as a dead letter when it is none, or the consumer fails on it."""
        tag = None
        try:
            message = self._message(item)
            # The queue it came from, not the one that its sender names.
            message["properties"]["delivery_info"]["routing_key"] = queue
            tag = message["properties"]["delivery_tag"]
            self.connection._deliver(message, queue)  # noqa: SLF001  as the method that is replaced does
        except Exception as error:
            if tag is None:
                self.keep(item, f"not a message: {type(error).__name__}", queue=queue)
                return
            if self._is_of_broker(error):
                raise
            log.error("message_failed", action="dead_letter", queue=queue, exc_info=error)
            self.keep(item, f"nobody could receive it: {type(error).__name__}: {error}", queue=queue)
            self.basic_reject(tag)

    def _message(self, item: str) -> dict[str, Any]:
        """Read a queue's item as a message, with all fields that kombu needs. Raise anything when it is none."""
        message = loads(item)
        properties = message["properties"]
        place = properties["delivery_info"]
        # All of it is text that Redis accepts.
        "".join(
            [message["body"], properties["delivery_tag"], place["exchange"], place["routing_key"]]
        ).encode()
        if not isinstance(message["headers"], dict):
            raise TypeError("headers")
        self.Message(message, channel=self)
        return message

    def _is_of_broker(self, error: Exception) -> bool:
        """Whether Redis is at fault, not the message. Kombu blames Redis for a KeyError; here it is the message."""
        errors = (*self.connection.connection_errors, *self.connection.channel_errors)
        return isinstance(error, errors) and not isinstance(error, KeyError)


def use_channel(channel: type[TolerantChannel]) -> None:
    """Make all of this process's connections to Redis read messages through this channel."""
    redis_transport.Transport.Channel = channel


def waits_for_message(consumer: Any) -> bool:
    """Whether Redis has been asked for the next message.

    https://github.com/celery/celery/issues/8030: a worker is connected to Redis again and takes nothing any more.
    """
    channel = getattr(consumer.task_consumer, "channel", None)
    return bool(getattr(channel, "_in_poll", None))


def silence_last_words() -> None:
    """Keep Celery from writing past all logs when it stops. `worker_drains` says the same.

    https://github.com/celery/celery/issues/8101: open; a signal's handler writes "Warm shutdown" to standard error.
    """
    celery_worker.safe_say = _say_nothing


def _say_nothing(*_: Any) -> None:
    pass
