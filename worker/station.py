"""What one worker process has: connections, models, leases. It is made at the start and shared by all threads."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from moderation.database.connection import Database
from moderation.dfa.gpt.pixels import Picture
from moderation.rollout import Rollout, bundle_for, main_of
from moderation.rollouts.rollout_rows import in_force
from moderation.settings import Settings
from moderation.storage import Storage
from worker.batching import Analyzer, Batcher
from worker.breaker import Breaker
from worker.leases import LeaseKeeper
from worker.quarantine import Quarantine

log = structlog.get_logger()


@dataclass(frozen=True)
class Pipeline:
    """One bundle at work: its model, the thread that runs it, and the breaker that stops it."""

    analyzer: Analyzer
    batcher: Batcher
    breaker: Breaker

    @property
    def fingerprint(self) -> str:
        return self.analyzer.fingerprint

    @property
    def stopped(self) -> str | None:
        """Why it takes no work. None: it takes work."""
        if self.batcher.fault is not None:
            return f"its engine ended: {type(self.batcher.fault).__name__}"
        return self.breaker.why


class Orders:
    """The current rollout, as of the last look. Threads may share it; only `look` waits for Postgres."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.known = Rollout()

    def look(self) -> bool:
        """Read it again; return whether it changed. Raise DatabaseUnavailable; then the old one stays."""
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
    #: By fingerprint: this process's own bundle, and the candidate if there is one.
    pipelines: Mapping[str, Pipeline]
    #: Fingerprint of its own bundle.
    own: str
    orders: Orders
    leases: LeaseKeeper
    quarantine: Quarantine
    #: Set when the process is about to end: no new case begins.
    draining: threading.Event
    #: One permit per core. More threads that decode and find faces at the same time would only wait for each other.
    cores: threading.Semaphore
    #: How pictures are decoded for their evidence only, and what the facts depend on besides the bytes
    #: (`options.gatherer`). None: no evidence is gathered.
    decode: Callable[[bytes], Picture] | None = None
    gatherer: str | None = None

    @property
    def actor(self) -> str:
        """The name under which this process writes events."""
        return f"worker:{self.owner}"

    @property
    def serving(self) -> Pipeline:
        """The pipeline of the bundle that serves."""
        return self.pipelines[main_of(self.orders.known, self.pipelines, self.own)]

    def route(self, case_id: UUID, attempt: int) -> Pipeline | None:
        """The pipeline for this case's own analysis. `attempt` counts from 1. None: the serving one takes no work now.

        A candidate that takes no work is skipped. Call this once the case has begun: a stopped pipeline that is tried
        again gets this one case.
        """
        fingerprint = bundle_for(self.orders.known, case_id, attempt, self.pipelines, self.own)
        serving, pipeline = self.serving, self.pipelines[fingerprint]
        if pipeline is not serving and pipeline.batcher.fault is None and pipeline.breaker.begins():
            return pipeline
        return serving if serving.breaker.begins() else None
