"""Holds leases: one thread renews all leases of this process in one statement, every third of a lease."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

import structlog

from moderation.database.connection import Database
from moderation.database.moves import release_case
from moderation.database.work import CASES
from moderation.errors import BonafideError, LeaseLost

log = structlog.get_logger()


class LeaseKeeper:
    """The leases of this process. A lost lease is forgotten: its holder finds out when it writes."""

    def __init__(self, database: Database, *, owner: str, lease_seconds: float) -> None:
        self._database = database
        self._owner = owner
        self._lease_seconds = lease_seconds
        self._held: dict[int, tuple[UUID, float]] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew_for_ever, name="lease-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    @contextmanager
    def hold(self, case_id: UUID, token: int) -> Generator[None]:
        """Keep this lease renewed until the block ends."""
        with self._lock:
            self._held[token] = (case_id, time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(token, None)

    @property
    def oldest_seconds(self) -> float:
        """Seconds for which the oldest lease has been held. 0 without a lease."""
        with self._lock:
            since = min((since for _, since in self._held.values()), default=time.monotonic())
        return time.monotonic() - since

    def __len__(self) -> int:
        return len(self._held)

    def release_all(self, *, why: str) -> int:
        """Release every held case at once, without a lost attempt; return how many."""
        with self._lock:
            held = list(self._held.items())
            self._held.clear()
        returned = 0
        for token, (case_id, _) in held:
            try:
                with self._database.transaction() as session:
                    release_case(session, case_id, token, actor=f"worker:{self._owner}", why=why, due_in=0)
                returned += 1
            except LeaseLost:
                continue
            except BonafideError as error:
                # The lease runs out by itself. The case loses an attempt and a minute, nothing else.
                log.warning("lease_not_released", action="stop", case=str(case_id), error=str(error))
        return returned

    def renew(self) -> None:
        """Renew all leases. Those that are no longer valid are forgotten."""
        with self._lock:
            tokens = list(self._held)
        if not tokens:
            return
        with self._database.transaction() as session:
            good = CASES.renew(session, tokens, lease_seconds=self._lease_seconds)
        with self._lock:
            for token in set(tokens) - good:
                self._held.pop(token, None)

    def _renew_for_ever(self) -> None:
        while not self._stop.wait(self._lease_seconds / 3):
            try:
                self.renew()
            except Exception as error:  # noqa: BLE001  a keeper that ends in silence loses every lease
                # Two more tries fit into the lease. After that other workers rightly take the cases.
                log.warning("leases_not_renewed", action="renew", held=len(self), error=str(error))
