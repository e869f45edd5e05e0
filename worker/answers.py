"""One question in the worker: fetch the picture, crop the face as the analysis did, ask the model, store the answer.

The model sees the face, what it said of it in the analysis, and earlier questions about it with their answers. It
answers on the engine's thread, between its steps.
"""

import time
from collections.abc import Sequence
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.orm import Session

from moderation.analysis import FaceAnalysis, Label
from moderation.database.analyses import StoredAnalysis, find_analysis, shown_analyses
from moderation.database.questions import (
    HeldQuestion,
    begin_question,
    question_is_suspect,
    record_answer,
    record_failure,
    release_question,
)
from moderation.database.renditions import Renditions, record_renditions, with_thumbnails
from moderation.database.work import stale_seconds
from moderation.dfa.gpt.conversation import MOST_TURNS, Turn, answer_or_none
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.errors import EngineUnavailable, QuestionRefused, RequestRefused
from worker.analysis import fetch_again
from worker.retries import Fail, Forget, Release, reaction
from worker.run import Job, write
from worker.station import Pipeline, Station


class NoFace(RequestRefused):
    """The picture has no face that the model could be asked about."""

    code = "no_face"


class NoAnswer(RequestRefused):
    """The model's reply cannot be read, or contradicts what it said of the face before."""

    code = "unreadable"


@dataclass(frozen=True)
class Answered:
    """What the model said, and which bundle said it."""

    text: str
    pipeline: Pipeline
    seconds: float


class AnswerQuestion(Job[HeldQuestion, Answered]):
    """Give one question an answer, or the reason why it has none."""

    name, action = "question", "answer"

    def take(self, station: Station, row_id: UUID, *, quarantined: bool) -> HeldQuestion | None:
        stale_after = stale_seconds(station.settings)
        with station.database.transaction() as session:
            return begin_question(session, row_id, stale_after=stale_after, quarantined=quarantined)

    def is_suspect(self, station: Station, row_id: UUID) -> bool:
        with station.database.transaction() as session:
            return question_is_suspect(session, row_id, stale_after=stale_seconds(station.settings))

    def do(self, station: Station, held: HeldQuestion) -> Answered:
        started = time.monotonic()
        stored = _asked_of(station, held)
        pipeline = _pipeline(station, stored)
        text = _ask(station, pipeline, held, _face(stored, held.face))
        return Answered(text, pipeline, time.monotonic() - started)

    def record(self, station: Station, held: HeldQuestion, done: Answered) -> None:
        write(
            station,
            lambda session: record_answer(
                session,
                held,
                done.text,
                bundle=done.pipeline.analyzer.bundle_name,
                fingerprint=done.pipeline.fingerprint,
                seconds=done.seconds,
            ),
        )

    def react(self, station: Station, held: HeldQuestion, error: BaseException) -> Release | Fail | Forget:
        if isinstance(error, RequestRefused) and not isinstance(error, (NoFace, NoAnswer)):
            error = QuestionRefused(str(error))
        return reaction(error, final=(RequestRefused,))

    def release(self, station: Station, session: Session, held: HeldQuestion, end: Release) -> None:
        release_question(session, held)

    def fail(self, station: Station, session: Session, held: HeldQuestion, end: Fail) -> None:
        record_failure(session, held, end.code)


ANSWER = AnswerQuestion()


def _asked_of(station: Station, held: HeldQuestion) -> StoredAnalysis | None:
    """The analysis that was on show when the question was asked. When that is not known, the one on show now."""
    with station.database.reading() as session:
        asked = None if held.analysis_id is None else find_analysis(session, held.analysis_id)
        return asked or shown_analyses(session, [held.case_id]).get(held.case_id)


def _face(stored: StoredAnalysis | None, number: int | None) -> FaceAnalysis | None:
    """The face that the question is about; without a number, the face that decided the verdict. None: there is none."""
    faces = () if stored is None else stored.analysis.faces
    place = (number or 1) - 1
    return faces[place] if place < len(faces) else None


def _pipeline(station: Station, stored: StoredAnalysis | None) -> Pipeline:
    """The bundle of that analysis. When it is not here, or stopped, the bundle that serves."""
    shown = None if stored is None else station.pipelines.get(stored.analysis.fingerprint)
    return station.serving if shown is None or shown.stopped else shown


def _ask(station: Station, pipeline: Pipeline, held: HeldQuestion, face: FaceAnalysis | None) -> str:
    fetched = fetch_again(station, held.image, held.sha256)
    with station.cores:
        prepared = pipeline.analyzer.prepare(fetched.data)
    _render_again(station, held.case_id, prepared, fetched.sha256)
    crop = _crop_of(face, prepared.crops)
    turns = [Turn(question, said) for question, said in held.turns[-MOST_TURNS:]]
    talk = pipeline.batcher.converse(crop, turns, held.question, about=face)
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
    """Keep renditions again for a case without any: it came back from an archive, or was decided long ago."""
    found = prepared.renditions
    if not isinstance(found, Renditions):
        return
    with station.database.reading() as session:
        there = with_thumbnails(session, [case_id])
    if not there:
        write(station, lambda session: record_renditions(session, case_id, found, sha256=sha256))


def _crop_of(face: FaceAnalysis | None, crops: Sequence[FaceCrop]) -> FaceCrop:
    """The new crop of that face; the largest face when None. Raise NoFace."""
    if not crops:
        raise NoFace("no face of this picture can be judged: there is nothing to ask the model about")
    if face is None:
        return crops[0]
    return max(crops, key=lambda crop: crop.face.box.shared(face.face.box))
