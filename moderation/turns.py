"""Whose turn it is to be told: slow endpoints wait behind quick ones. Nothing here talks to anybody or keeps time.

An endpoint is slow while one of its tries has been running for `SLOW_AFTER`, and after a try that took so long, until
it answers quickly again. Slow endpoints share a few senders among themselves; all the others have the rest. So however
many endpoints are silent, none of them stands before one that answers.
"""

import itertools
from collections import Counter
from dataclasses import dataclass
from uuid import UUID

#: Seconds after which a try is slow. What a receiver does before it answers, it does in less.
SLOW_AFTER = 1.0
#: Tries at once that are not slow: of all endpoints together, and of one that answered quickly the last time. One that
#: has not answered yet since this process began has one try at a time.
SENDERS, SENDERS_EACH = 16, 4
#: Tries at once of all slow endpoints together. Each of them has one at a time.
SLOW_SENDERS = 8
#: Tries at once of any kind: endpoints that nobody knew turn out to be slow while their tries are running.
TRIES_AT_ONCE = 64


@dataclass(frozen=True)
class Turn:
    """What may begin now."""

    #: So many tries, of any endpoint but these.
    room: int
    wait: frozenset[UUID]
    #: And so many of these, which are slow.
    slow_room: int
    slow: frozenset[UUID]


class Turns:
    """The tries that run and how endpoints answered. Not safe to share between threads.

    `now` is of any clock in seconds that never goes back.
    """

    def __init__(self) -> None:
        #: By the number of the try: whose it is and when it began.
        self._running: dict[int, tuple[UUID, float]] = {}
        self._numbers = itertools.count()
        #: Whether an endpoint's last try was slow. Endpoints that were not tried yet are not in it.
        self._slow: dict[UUID, bool] = {}

    def begin(self, endpoint: UUID, *, now: float) -> int:
        """A try of this endpoint begins. Return its number."""
        number = next(self._numbers)
        self._running[number] = (endpoint, now)
        return number

    def end(self, number: int, *, answered_at: float) -> None:
        """The try is over. It was answered, or given up, at that moment: so quick is its endpoint."""
        endpoint, began = self._running.pop(number)
        self._slow[endpoint] = answered_at - began > SLOW_AFTER

    def next(self, *, now: float) -> Turn:
        """What may begin now."""
        slow = {endpoint for endpoint, was_slow in self._slow.items() if was_slow}
        slow |= {endpoint for endpoint, began in self._running.values() if now - began > SLOW_AFTER}
        running = Counter(endpoint for endpoint, _ in self._running.values())
        of_slow = sum(running[endpoint] for endpoint in slow)
        left = max(0, TRIES_AT_ONCE - running.total())
        full = {one for one, count in running.items() if count >= (SENDERS_EACH if one in self._slow else 1)}
        return Turn(
            room=max(0, min(left, SENDERS - (running.total() - of_slow))),
            wait=frozenset(full | slow),
            slow_room=max(0, min(left, SLOW_SENDERS - of_slow)),
            slow=frozenset(slow - running.keys()),
        )
