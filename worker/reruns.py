"""One rerun in the worker: fetch the picture, analyse it with the requested pipeline, store the analysis.

A failure is written to the rerun's own row and changes nothing about its case.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from moderation.database.ids import new_id
from moderation.database.work import stale_seconds
from moderation.errors import BucketNotRead, DecoderKilled
from moderation.rollouts.rerun_rows import (
    HeldRerun,
    begin_rerun,
    fail_rerun,
    record_rerun,
    release_rerun,
    rerun_is_suspect,
)
from worker.analysis import Findings, analysis_of, fetch_again, record_beside
from worker.retries import FAULT, Fail, Forget, Release, reaction
from worker.run import Job, write
from worker.station import Pipeline, Station
from worker.telemetry import RERUN_OUTCOMES


@dataclass(frozen=True)
class Reanalyzed:
    """What the pipeline says, and the version of the image that it saw."""

    seen: Findings
    version_id: str | None


class RerunCase(Job[HeldRerun, Reanalyzed]):
    """Analyse one case once more, by a pipeline that this worker holds and uses."""

    name, action = "rerun", "rerun"

    def take(self, station: Station, row_id: UUID, *, quarantined: bool) -> HeldRerun | None:
        with station.database.transaction() as session:
            held = begin_rerun(
                session,
                row_id,
                _in_use(station),
                actor=station.actor,
                stale_after=stale_seconds(station.settings),
                quarantined=quarantined,
            )
        if held is None or _pipeline(station, held).breaker.begins():
            return held
        # A stopped model is tried with one rerun, and another thread has begun it.
        write(station, lambda session: release_rerun(session, held))
        return None

    def is_suspect(self, station: Station, row_id: UUID) -> bool:
        stale_after = stale_seconds(station.settings)
        with station.database.transaction() as session:
            return rerun_is_suspect(session, row_id, _in_use(station), stale_after=stale_after)

    def do(self, station: Station, held: HeldRerun) -> Reanalyzed:
        fetched = fetch_again(station, held.image, held.sha256)
        return Reanalyzed(analysis_of(station, _pipeline(station, held), fetched), fetched.version_id)

    def record(self, station: Station, held: HeldRerun, done: Reanalyzed) -> None:
        analysis_id = new_id()

        def record(session: Session) -> None:
            record_rerun(
                session,
                held,
                done.seen.analysis,
                actor=station.actor,
                new_id=analysis_id,
                version_id=done.version_id,
                conflicts=done.seen.conflicts,
            )
            record_beside(station, session, held.case_id, done.seen)

        write(station, record)
        _count(station, held, "analyzed")

    def react(self, station: Station, held: HeldRerun, error: BaseException) -> Release | Fail | Forget:
        # These two would happen again, and nobody waits for a rerun until they are repaired.
        end = reaction(error, final=(BucketNotRead, DecoderKilled))
        if end == FAULT:
            _pipeline(station, held).breaker.failed(f"every analysis ends in a fault: {type(error).__name__}")
        return end

    def release(self, station: Station, session: Session, held: HeldRerun, end: Release) -> None:
        release_rerun(session, held)

    def fail(self, station: Station, session: Session, held: HeldRerun, end: Fail) -> None:
        fail_rerun(session, held, end.code)

    def count(self, station: Station, held: HeldRerun, end: Release | Fail | Forget) -> None:
        if isinstance(end, Fail):
            _count(station, held, end.code)


RERUN = RerunCase()


def _in_use(station: Station) -> list[str]:
    """The pipelines of this worker that take work now."""
    return [
        fingerprint
        for fingerprint, pipeline in station.pipelines.items()
        if pipeline.batcher.fault is None and pipeline.breaker.allows()
    ]


def _pipeline(station: Station, held: HeldRerun) -> Pipeline:
    return station.pipelines[held.fingerprint]


def _count(station: Station, held: HeldRerun, outcome: str) -> None:
    RERUN_OUTCOMES.labels(_pipeline(station, held).analyzer.bundle_name, outcome).inc()
