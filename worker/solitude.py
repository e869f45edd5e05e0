"""Being alone: a case whose lease ever ran out is analysed while nothing else is, so that it can harm no other.

A picture that kills the process takes every case in it down too, and all of them come back suspect. Tried one at a
time, the guilty one runs out of attempts and the others get their analyses.
"""

import threading
from collections.abc import Generator
from contextlib import contextmanager


class Solitude:
    """Many may be `together`, or one `alone`. Who wants to be alone is let in before others who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._alone = False
        self._waiting_to_be_alone = 0

    @contextmanager
    def together(self) -> Generator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._waiting_to_be_alone)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Generator[None]:
        with self._changed:
            self._waiting_to_be_alone += 1
            self._changed.wait_for(lambda: not self._alone and self._together == 0)
            self._waiting_to_be_alone -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()
