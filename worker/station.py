"""What one worker process has: its connections, its model, its leases. Made at the start, shared by all its threads."""

import threading
from dataclasses import dataclass

from moderation.database.connection import Database
from moderation.settings import Settings
from moderation.storage import Storage
from worker.batching import Analyzer, Batcher
from worker.breaker import Breaker
from worker.leases import LeaseKeeper
from worker.solitude import Solitude


@dataclass(frozen=True)
class Station:
    settings: Settings
    owner: str
    database: Database
    storage: Storage
    analyzer: Analyzer
    batcher: Batcher
    leases: LeaseKeeper
    solitude: Solitude
    breaker: Breaker
    #: Set when the process is about to end: no case is begun any more.
    draining: threading.Event
    #: As many as there are cores: decoding and finding faces by more threads at once only makes them wait for each
    #: other.
    cores: threading.Semaphore

    @property
    def actor(self) -> str:
        """How this process signs its events."""
        return f"worker:{self.owner}"
