"""One rerun through the worker: take it, fetch the picture, let the pipeline that was asked for look at it, store.

Whatever goes wrong ends in the rerun's own row, and changes nothing about its case.
"""

from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from moderation.database.ids import new_id
from moderation.database.reruns import (
    Begun,
    begin_rerun,
    fail_rerun,
    find_waiting,
    hand_rerun_back,
    record_rerun,
)
from moderation.errors import BucketNotRead, DecoderKilled, ImageRejected, Unavailable
from moderation.reruns import rerun_seconds
from worker.analysis import analysis_of, fetch_again, record_beside, write
from worker.station import Pipeline, Station
from worker.telemetry import RERUNS, about_case

log = structlog.get_logger()


def rerun(station: Station, rerun_id: UUID) -> None:
    """Analyse one case once more. Safe to run twice for the same rerun.

    Left alone, for another worker or a later bell, when this one does not hold the bundle or does not use it just now.
    Raise Unavailable when the rerun went back.
    """
    if station.draining.is_set():
        return
    with station.database.transaction() as session:
        waiting = find_waiting(session, rerun_id)
    pipeline = None if waiting is None else station.pipelines.get(waiting.fingerprint)
    if waiting is None or pipeline is None or pipeline.batcher.fault is not None:
        return
    if not pipeline.breaker.allows():
        return
    place = station.solitude.alone() if waiting.alone else station.solitude.together()
    with place:
        stale_after = rerun_seconds(station.settings)
        with station.database.transaction() as session:
            begun = begin_rerun(session, rerun_id, actor=station.actor, stale_after=stale_after)
        if begun is not None:
            with about_case(str(begun.case_id)):
                _work(station, pipeline, begun)


def _work(station: Station, pipeline: Pipeline, begun: Begun) -> None:
    if not pipeline.breaker.begins():
        write(station, lambda session: hand_rerun_back(session, begun))
        return
    try:
        fetched = fetch_again(station, begun.image, begun.sha256)
        seen = analysis_of(station, pipeline, fetched)
    except (ImageRejected, BucketNotRead, DecoderKilled) as error:
        # The last two would be found so again, and nobody waits for a rerun until they are mended.
        _give_up(station, pipeline, begun, error.code)
        return
    except (Unavailable, MemoryError):
        write(station, lambda session: hand_rerun_back(session, begun))
        raise
    except Exception as error:
        log.error("rerun_failed", action="rerun", rerun=str(begun.id), exc_info=error)
        pipeline.breaker.failed(f"every analysis ends in a fault: {type(error).__name__}")
        _give_up(station, pipeline, begun, "fault")
        return
    analysis_id = new_id()

    def record(session: Session) -> None:
        record_rerun(
            session,
            begun,
            seen.analysis,
            actor=station.actor,
            new_id=analysis_id,
            version_id=fetched.version_id,
            conflicts=seen.conflicts,
        )
        record_beside(station, session, begun.case_id, seen)

    write(station, record)
    RERUNS.labels(pipeline.analyzer.bundle_name, "analyzed").inc()


def _give_up(station: Station, pipeline: Pipeline, begun: Begun, code: str) -> None:
    def fail(session: Session) -> None:
        fail_rerun(session, begun, code)

    write(station, fail)
    RERUNS.labels(pipeline.analyzer.bundle_name, code).inc()
