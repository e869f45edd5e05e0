"""What one worker process has: connections, models, leases. Made at the start, shared by all its threads."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from moderation.database.connection import Database
from moderation.database.rollouts import in_force
from moderation.dfa.gpt.pixels import Picture
from moderation.rollout import Rollout, chosen, main_of
from moderation.settings import Settings
from moderation.storage import Storage
from worker.batching import Analyzer, Batcher
from worker.breaker import Breaker
from worker.leases import LeaseKeeper
from worker.solitude import Solitude

log = structlog.get_logger()


@dataclass(frozen=True)
class Pipeline:
    """One bundle at work: its model, the thread that runs it, and what stops it when it fails everything."""

    analyzer: Analyzer
    batcher: Batcher
    breaker: Breaker

    @property
    def fingerprint(self) -> str:
        return self.analyzer.fingerprint

    @property
    def stopped(self) -> str | None:
        """Why it takes no work. None while it does."""
        if self.batcher.fault is not None:
            return f"its engine ended: {type(self.batcher.fault).__name__}"
        return self.breaker.why


class Orders:
    """The rollout in force, as of the last look. Safe to share; nobody but who looks waits for Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.known = Rollout()

    def look(self) -> bool:
        """Read it again, and return whether it is another one. Raise DatabaseUnavailable: what is known stays."""
        with self._database.transaction() as session:
            found = in_force(session)
        new = found != self.known
        if new:
            log.info("rollout_read", action="rollout", **vars(found))
        self.known = found
        return new


@dataclass(frozen=True)
class Station:
    settings: Settings
    owner: str
    database: Database
    storage: Storage
    #: By fingerprint: this process's own bundle, and the candidate when there is one.
    pipelines: Mapping[str, Pipeline]
    #: Fingerprint of its own.
    own: str
    orders: Orders
    leases: LeaseKeeper
    solitude: Solitude
    #: Set when the process is about to end: no case is begun any more.
    draining: threading.Event
    #: As many as there are cores: decoding and finding faces by more threads at once only makes them wait for each
    #: other.
    cores: threading.Semaphore
    #: How pictures are decoded when nothing but their evidence is wanted, and what the facts depend on beside the bytes
    #: (`options.gatherer`). None: no evidence is gathered.
    decode: Callable[[bytes], Picture] | None = None
    gatherer: str | None = None

    @property
    def actor(self) -> str:
        """How this process signs its events."""
        return f"worker:{self.owner}"

    @property
    def serving(self) -> Pipeline:
        """The pipeline of the bundle that serves."""
        return self.pipelines[main_of(self.orders.known, self.pipelines, self.own)]

    def route(self, case_id: UUID, attempt: int) -> Pipeline | None:
        """What makes this case's own analysis, the `attempt`th from 1. None: what serves takes no work just now.

        A candidate that takes none is passed over. Called once a case is really begun: a pipeline that is being tried
        again after a stop is given this one case.
        """
        fingerprint = chosen(self.orders.known, case_id, attempt, self.pipelines, self.own)
        serving, pipeline = self.serving, self.pipelines[fingerprint]
        if pipeline is not serving and pipeline.batcher.fault is None and pipeline.breaker.begins():
            return pipeline
        return serving if serving.breaker.begins() else None
