"""The quarantine: a case whose lease ever ran out is analysed while nothing else runs, so that it can harm no other.

A picture that kills the process ends every case in it, and all of them return as suspects. Tried one at a time, the
guilty one runs out of attempts and the others get their analyses.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager


class Quarantine:
    """A reader–writer lock: many hold it `shared`, or one holds it `exclusive`. A wait for `exclusive` goes first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shared = 0
        self._exclusive = False
        self._exclusive_waiting = 0

    @contextmanager
    def shared(self) -> Generator[None]:
        """Run beside others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._exclusive and not self._exclusive_waiting)
            self._shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._shared -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Generator[None]:
        """Run while nothing else does: wait for what runs, and let nothing new begin."""
        with self._changed:
            self._exclusive_waiting += 1
            self._changed.wait_for(lambda: not self._exclusive and self._shared == 0)
            self._exclusive_waiting -= 1
            self._exclusive = True
        try:
            yield
        finally:
            with self._changed:
                self._exclusive = False
                self._changed.notify_all()
