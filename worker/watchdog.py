"""The watchdog: a thread that ends the process when its loop, its engine or an image stops moving.

The threads pool has no time limits. A stuck thread cannot be stopped, but the process can. Then its leases run out, the
sweeper returns its cases, and the supervisor starts another process.
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
    """Looks at `checks`. Each says for how many seconds something has not moved, and how long it may not."""

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
        """Look once: give up when something has stood still for too long, else touch the alive file."""
        for name, (still_for, at_most) in self._checks.items():
            seconds = still_for()
            if seconds > at_most:
                self._give_up(f"{name} has not moved for {seconds:.0f} seconds (at most {at_most:.0f})")
                return
        if self._alive_file is not None:
            with contextlib.suppress(OSError):  # a full disk: the reader of the file decides
                self._alive_file.touch()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.look()


def _exit(why: str) -> None:
    log.critical("worker_gives_up", action="watchdog", why=why, at=time.time())
    os._exit(GAVE_UP)
