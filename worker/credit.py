"""How many messages this worker may still take: given back for each that is done, whether Redis hears of it or not.

Kombu 5.7 counts a message as done only once Redis has said so. A Redis that goes away at that moment leaves it counted
for ever: after as many as there are threads the worker takes nothing more, though its loop turns and Redis is back.
For us a message is a bell: one that Redis hands out once more, because it never heard, changes nothing.
"""

from kombu.transport import redis as redis_transport
from kombu.transport.virtual import base


class Credit(redis_transport.QoS):
    """Kombu's count, in which what Redis did not hear is done all the same."""

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
