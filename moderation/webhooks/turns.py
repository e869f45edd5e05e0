"""Which endpoint is next: slow ones wait behind quick ones. Nothing here connects to anything or reads a clock.

An endpoint is slow once one of its tries runs for `SLOW_AFTER`, until it answers quickly again. Slow endpoints share a
few senders; the others have the rest. So no number of silent endpoints delays one that answers.
"""

import itertools
from collections import Counter
from dataclasses import dataclass
from uuid import UUID

#: Seconds after which a try is slow. A receiver should answer in less.
SLOW_AFTER = 1.0
#: Parallel tries that are not slow: for all endpoints together, and for one endpoint that answered quickly last time.
#: An endpoint that has not answered since this process began has one try at a time.
SENDERS, SENDERS_EACH = 16, 4
#: Parallel tries for all slow endpoints together. Each has one at a time.
SLOW_SENDERS = 8
#: Parallel tries of any kind: new endpoints may turn out to be slow while their tries run.
TRIES_AT_ONCE = 64


@dataclass(frozen=True)
class Allowance:
    """What may begin now."""

    #: So many tries, for any endpoint except `wait`.
    room: int
    wait: frozenset[UUID]
    #: And so many tries for the endpoints `slow`.
    slow_room: int
    slow: frozenset[UUID]


class Turns:
    """The running tries, and how endpoints answered. Threads may not share it.

    `now` comes from any clock in seconds that never goes back.
    """

    def __init__(self) -> None:
        #: By the number of the try: its endpoint and its start.
        self._running: dict[int, tuple[UUID, float]] = {}
        self._numbers = itertools.count()
        #: Whether an endpoint's last try was slow. It has no entry before the first try.
        self._slow: dict[UUID, bool] = {}

    def begin(self, endpoint: UUID, *, now: float) -> int:
        """Begin a try for this endpoint; return its number."""
        number = next(self._numbers)
        self._running[number] = (endpoint, now)
        return number

    def end(self, number: int, *, answered_at: float) -> None:
        """End a try that was answered, or given up, at that moment. It shows how quick its endpoint is."""
        endpoint, began = self._running.pop(number)
        self._slow[endpoint] = answered_at - began > SLOW_AFTER

    def next(self, *, now: float) -> Allowance:
        """What may begin now."""
        slow = {endpoint for endpoint, was_slow in self._slow.items() if was_slow}
        slow |= {endpoint for endpoint, began in self._running.values() if now - began > SLOW_AFTER}
        running = Counter(endpoint for endpoint, _ in self._running.values())
        of_slow = sum(running[endpoint] for endpoint in slow)
        left = max(0, TRIES_AT_ONCE - running.total())
        each = {endpoint: SENDERS_EACH if endpoint in self._slow else 1 for endpoint in running}
        full = {endpoint for endpoint, count in running.items() if count >= each[endpoint]}
        return Allowance(
            room=max(0, min(left, SENDERS - (running.total() - of_slow))),
            wait=frozenset(full | slow),
            slow_room=max(0, min(left, SLOW_SENDERS - of_slow)),
            slow=frozenset(slow - running.keys()),
        )
