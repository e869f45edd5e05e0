"""Which queue a worker takes its next message from.

The lanes are taken in order; now and then the backfill comes first. Reruns are always last: nobody waits for them.
"""

from collections.abc import Iterable

from moderation.dispatch import BACKFILL_QUEUE, LANES

#: One of so many messages comes from the backfill, however many wait in front, so that no case starves.
BACK_EVERY = 8


class LaneCycle:
    """Gives kombu the order of its queues: `queue_order_strategy` in `worker.app`."""

    def __init__(self, queues: Iterable[str] = ()) -> None:
        self._taken = 0
        self.update(queues)

    def update(self, queues: Iterable[str]) -> None:
        place = {name: index for index, name in enumerate(LANES)}
        self._queues = sorted(queues, key=lambda name: place.get(name, len(place)))

    def consume(self, count: int) -> list[str]:
        """The queues in order. Kombu takes from the first that holds a message."""
        order = self._queues
        if self._taken % BACK_EVERY == BACK_EVERY - 1 and BACKFILL_QUEUE in order:
            order = [BACKFILL_QUEUE, *(name for name in order if name != BACKFILL_QUEUE)]
        return order[:count]

    def rotate(self, last_used: str) -> str:
        """A message was taken."""
        self._taken += 1
        return last_used
