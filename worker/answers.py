"""One question through the worker: take it, fetch the picture, crop the face as then, ask the model, store.

The model sees the face and the earlier turns of the same case; it answers on the engine's thread, between its steps.
"""

import time
from collections.abc import Sequence
from concurrent.futures import TimeoutError as TookTooLong
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from moderation.analysis import Box, FaceAnalysis, Label
from moderation.database.analyses import shown_analyses
from moderation.database.questions import (
    Begun,
    begin_question,
    hand_question_back,
    record_answer,
    record_failure,
    was_abandoned,
)
from moderation.database.renditions import Renditions, record_renditions, with_thumbnails
from moderation.dfa.gpt.conversation import MOST_TURNS, Turn, answer_or_none
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.errors import EngineUnavailable, ImageRejected, RequestRefused, Unavailable
from moderation.questions import answer_seconds
from worker.analysis import fetch_again, write
from worker.station import Pipeline, Station
from worker.telemetry import about_case

log = structlog.get_logger()


class NoFace(RequestRefused):
    """There is nothing in the picture that the model could be asked about."""

    code = "no_face"


class NoAnswer(RequestRefused):
    """The model's reply cannot be read, or contradicts what it said of the same face."""

    code = "unreadable"


def answer(station: Station, question_id: UUID) -> None:
    """Give one question an answer, or the reason that there is none. Safe to run twice for the same question.

    Raise Unavailable when the question went back: the sweeper rings for it again.
    """
    if station.draining.is_set():
        return
    stale_after = answer_seconds(station.settings)
    with station.database.transaction() as session:
        abandoned = was_abandoned(session, question_id, stale_after=stale_after)
    if abandoned is None:
        return
    # As with cases and reruns: one that ended a worker, or may have, is tried while nothing else is.
    with station.solitude.alone() if abandoned else station.solitude.together():
        with station.database.transaction() as session:
            begun = begin_question(session, question_id, stale_after=stale_after)
        if begun is not None:
            with about_case(str(begun.case_id)):
                _work(station, begun)


def _work(station: Station, begun: Begun) -> None:
    started = time.monotonic()
    try:
        pipeline = _pipeline(station, begun.case_id)
        text = _ask(station, pipeline, begun)
    except (Unavailable, MemoryError):
        write(station, lambda session: hand_question_back(session, begun))
        raise
    except (ImageRejected, RequestRefused) as error:
        code = error.code if isinstance(error, (ImageRejected, NoFace, NoAnswer)) else "question_refused"
        write(station, lambda session: _fail(session, begun, code))
        return
    except Exception as error:
        log.error("question_failed", action="answer", question=str(begun.id), exc_info=error)
        write(station, lambda session: _fail(session, begun, "fault"))
        return
    spent = time.monotonic() - started

    def record(session: Session) -> None:
        record_answer(
            session,
            begun,
            text,
            bundle=pipeline.analyzer.bundle_name,
            fingerprint=pipeline.fingerprint,
            seconds=spent,
        )

    write(station, record)


def _fail(session: Session, begun: Begun, code: str) -> None:
    record_failure(session, begun, code)


def _pipeline(station: Station, case_id: UUID) -> Pipeline:
    """The bundle whose analysis is on show, which is asked why; the one that serves when it is not here, or stopped."""
    with station.database.transaction() as session:
        stored = shown_analyses(session, [case_id]).get(case_id)
    shown = None if stored is None else station.pipelines.get(stored.analysis.fingerprint)
    return station.serving if shown is None or shown.stopped else shown


def _ask(station: Station, pipeline: Pipeline, begun: Begun) -> str:
    fetched = fetch_again(station, begun.image, begun.sha256)
    with station.cores:
        prepared = pipeline.analyzer.prepare(fetched.data)
    _render_again(station, begun.case_id, prepared, fetched.sha256)
    face = _shown_face(station, begun.case_id)
    crop = _deciding(face, prepared.crops)
    turns = [Turn(question, said) for question, said in begun.turns[-MOST_TURNS:]]
    talk = pipeline.batcher.converse(crop, turns, begun.question)
    try:
        written = talk.answer.result(timeout=station.settings.engine_timeout_seconds)
    except TookTooLong:
        talk.answer.cancel()
        raise EngineUnavailable("the model did not answer in time") from None
    known = face is not None and face.verdict.label is not Label.UNDETERMINED
    said = answer_or_none(
        written,
        deepfake=face.verdict.label is Label.DEEPFAKE if face is not None and known else None,
        artifacts=face.rationale if face is not None and known else None,
    )
    if said is None:
        raise NoAnswer("the model has no answer to this question")
    return said


def _render_again(station: Station, case_id: UUID, prepared: Prepared, sha256: str) -> None:
    """Keep the renditions of a case that has none any more: it came back from an archive, or was decided long ago."""
    found = prepared.renditions
    if not isinstance(found, Renditions):
        return
    with station.database.reading() as session:
        there = with_thumbnails(session, [case_id])
    if not there:
        write(station, lambda session: record_renditions(session, case_id, found, sha256=sha256))


def _shown_face(station: Station, case_id: UUID) -> FaceAnalysis | None:
    """The face that decided the verdict on show. None: there is no analysis, or none of a face."""
    with station.database.reading() as session:
        stored = shown_analyses(session, [case_id]).get(case_id)
    return stored.analysis.faces[0] if stored is not None and stored.analysis.faces else None


def _deciding(face: FaceAnalysis | None, crops: Sequence[FaceCrop]) -> FaceCrop:
    """That face, cut out anew; without one the largest. Raise NoFace."""
    if not crops:
        raise NoFace("there is no face in this picture that the model could look at")
    if face is None:
        return crops[0]
    box = face.face.box
    return max(crops, key=lambda crop: _overlap(crop.face.box, box))


def _overlap(one: Box, other: Box) -> float:
    """Square pixels that two boxes share."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    return max(0.0, width) * max(0.0, height)
