"""Life and death of the process: a thread that ends it when its loop, its engine or an image stops moving.

The threads pool has no time limits, and a stuck thread cannot be stopped; the process can. Its leases run out, the
sweeper returns its cases, and whoever supervises the process starts another.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

#: The exit status of a process that gave itself up (EX_SOFTWARE of sysexits.h).
GAVE_UP = 70

log = structlog.get_logger()


class Watchdog:
    """Looks at each of `checks`, which say for how many seconds something has not moved."""

    def __init__(
        self,
        checks: Mapping[str, tuple[Callable[[], float], float]],
        *,
        alive_file: Path | None = None,
        every: float = 2.0,
        give_up: Callable[[str], None] | None = None,
    ) -> None:
        self._checks = checks
        self._alive_file = alive_file
        self._every = every
        self._give_up = give_up or _exit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def look(self) -> None:
        """One look: give up when something has not moved for longer than it may, else say that all is alive."""
        for name, (still_for, at_most) in self._checks.items():
            seconds = still_for()
            if seconds > at_most:
                self._give_up(f"{name} has not moved for {seconds:.0f} seconds (at most {at_most:.0f})")
                return
        if self._alive_file is not None:
            with contextlib.suppress(OSError):  # a full disk: whoever looks at the file decides
                self._alive_file.touch()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.look()


def _exit(why: str) -> None:
    log.critical("worker_gives_up", action="watchdog", why=why, at=time.time())
    os._exit(GAVE_UP)
