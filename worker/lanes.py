"""Which queue a worker takes its next message from: the lanes in their order, and now and then the backfill first.

What is analysed once more is behind everything, always: nobody waits for it.
"""

from collections.abc import Iterable

from moderation.dispatch import BACKFILL_QUEUE, LANES

#: Of so many messages one is from the backfill, however many wait in front: no case starves.
BACK_EVERY = 8


class LaneCycle:
    """What kombu asks for the order of its queues: `queue_order_strategy` in `worker.app`."""

    def __init__(self, queues: Iterable[str] = ()) -> None:
        self._taken = 0
        self.update(queues)

    def update(self, queues: Iterable[str]) -> None:
        place = {name: index for index, name in enumerate(LANES)}
        self._queues = sorted(queues, key=lambda name: place.get(name, len(place)))

    def consume(self, count: int) -> list[str]:
        """The queues in the order to look at them; the first that holds something is taken from."""
        order = self._queues
        if self._taken % BACK_EVERY == BACK_EVERY - 1 and BACKFILL_QUEUE in order:
            order = [BACKFILL_QUEUE, *(name for name in order if name != BACKFILL_QUEUE)]
        return order[:count]

    def rotate(self, last_used: str) -> str:
        """A message was taken."""
        self._taken += 1
        return last_used
