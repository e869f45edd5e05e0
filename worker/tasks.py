"""The tasks, and their one edge: nothing escapes it, because what escapes a thread stops the worker in silence."""

import random
from contextlib import suppress
from uuid import UUID

import structlog
from sqlalchemy.orm import Session

from moderation.cases import Refusal
from moderation.database.moves import hand_back, refuse_case
from moderation.database.renditions import record_renditions
from moderation.dispatch import ANALYZE_CASE, ANSWER_QUESTION, MEASURE_CASE, RERUN_CASE
from moderation.errors import BonafideError, LeaseLost
from worker.analysis import Begun, analyze, begin, write
from worker.answers import answer
from worker.app import app
from worker.deadletters import keep_dead_letter
from worker.lifecycle import station
from worker.measuring import measure
from worker.reruns import rerun
from worker.retries import CANDIDATES, OURS, Forget, HandBack, Refuse, reaction
from worker.station import Station
from worker.telemetry import HAND_BACKS, LEASES_LOST, LINE_SECONDS, REFUSALS, about_case

log = structlog.get_logger()


@app.task(name=ANALYZE_CASE)
def analyze_case(*args: object, **kwargs: object) -> None:
    """Give one waiting case an analysis. Safe to run twice for the same case.

    Takes one case id. The signature takes anything, because Celery drops what does not fit a signature.
    """
    case_id = _only_id("case", args, kwargs)
    if case_id is None:
        return
    here = station()
    with about_case(str(case_id)):
        try:
            with begin(here, case_id) as begun:
                if begun is not None:
                    _work(here, begun)
        except BonafideError as error:
            # The case is where it was, or its lease will run out: either way the sweeper rings again.
            log.warning("case_left", action="analyze", error=str(error), code=error.code)
        except BaseException as error:
            log.error("case_left", action="analyze", exc_info=error)


@app.task(name=ANSWER_QUESTION)
def answer_question(*args: object, **kwargs: object) -> None:
    """Give one question about a case an answer. Safe to run twice for the same question."""
    question_id = _only_id("question", args, kwargs)
    if question_id is None:
        return
    try:
        answer(station(), question_id)
    except BonafideError as error:
        # It waits, or was given back: the sweeper rings again.
        log.warning(
            "question_left", action="answer", question=str(question_id), error=str(error), code=error.code
        )
    except BaseException as error:
        log.error("question_left", action="answer", question=str(question_id), exc_info=error)


@app.task(name=MEASURE_CASE)
def measure_case(*args: object, **kwargs: object) -> None:
    """Measure what the score of one case depends on. Safe to run twice for the same case."""
    case_id = _only_id("case", args, kwargs)
    if case_id is None:
        return
    try:
        measure(station(), case_id)
    except BonafideError as error:
        # Whoever opens the case next asks for it again.
        log.warning("effect_left", action="measure", case=str(case_id), error=str(error), code=error.code)
    except BaseException as error:
        log.error("effect_left", action="measure", case=str(case_id), exc_info=error)


@app.task(name=RERUN_CASE)
def rerun_case(*args: object, **kwargs: object) -> None:
    """Analyse one case once more. Safe to run twice for the same rerun."""
    rerun_id = _only_id("rerun", args, kwargs)
    if rerun_id is None:
        return
    try:
        rerun(station(), rerun_id)
    except BonafideError as error:
        # It waits, or was given back: the sweeper rings again.
        log.warning("rerun_left", action="rerun", rerun=str(rerun_id), error=str(error), code=error.code)
    except BaseException as error:
        log.error("rerun_left", action="rerun", rerun=str(rerun_id), exc_info=error)


def _only_id(what: str, args: tuple[object, ...], kwargs: dict[str, object]) -> UUID | None:
    """The one id that a message is to carry. One that carries anything else is kept as a dead letter: None."""
    match args, kwargs:
        case (str(text),), {} if not kwargs:
            with suppress(ValueError):
                return UUID(text)
        case _:
            pass
    task = app.current_task
    assert task is not None, "only a task reads arguments"
    queue = task.request.delivery_info["routing_key"]
    keep_dead_letter(repr((args, kwargs)), f"the arguments are not one {what} id", queue=queue)
    return None


def _work(here: Station, begun: Begun) -> None:
    LINE_SECONDS.observe(max(0.0, begun.waited))
    try:
        analyze(here, begun)
    except BaseException as error:  # noqa: BLE001  whatever it was, the case must go on
        _end(here, begun, error)


def _end(here: Station, begun: Begun, error: BaseException) -> None:
    """Do with the case what the table says. A lease lost meanwhile means that somebody else does."""
    what = reaction(
        error,
        postponements=begun.postponements,
        patience_seconds=here.settings.patience_seconds,
        random=random.random(),  # noqa: S311  jitter, not a secret
        on_trial=begun.pipeline is not here.serving,
    )
    if isinstance(error, BonafideError):
        log.info("analysis_ended", action="analyze", code=error.code, error=str(error))
    else:
        log.error("analysis_failed", action="analyze", exc_info=error)
    if what in (OURS, CANDIDATES):
        begun.pipeline.breaker.failed(f"every analysis ends in a fault: {type(error).__name__}")
        if what == OURS and begun.pipeline.breaker.why is not None:
            what = HandBack("breaker_open", here.settings.breaker_seconds)
    try:
        _do(here, begun, what)
    except LeaseLost:
        LEASES_LOST.inc()


def _refuse(session: Session, here: Station, begun: Begun, refusal: Refusal) -> None:
    """The case goes to a person without a verdict, and with what can be shown of its picture."""
    refuse_case(session, begun.case_id, begun.token, refusal, actor=here.actor, version_id=begun.version_id)
    if begun.renditions is not None:
        record_renditions(session, begun.case_id, begun.renditions)


def _do(here: Station, begun: Begun, what: HandBack | Refuse | Forget) -> None:
    held = begun.case_id, begun.token
    match what:
        case Refuse(refusal):
            write(here, lambda session: _refuse(session, here, begun, refusal))
            REFUSALS.labels(refusal.code).inc()
        case HandBack(why, due_in):
            write(here, lambda session: hand_back(session, *held, actor=here.actor, why=why, due_in=due_in))
            HAND_BACKS.labels(why).inc()
        case Forget():
            LEASES_LOST.inc()
