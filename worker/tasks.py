"""The tasks and their one edge. No error escapes it: an error that escapes a thread stops the worker in silence."""

from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import structlog

from moderation.dispatch import ANALYZE_CASE, ANSWER_QUESTION, MEASURE_CASE, RERUN_CASE
from moderation.errors import BonafideError
from worker.analysis import ANALYZE
from worker.answers import ANSWER
from worker.app import app
from worker.deadletters import keep_dead_letter
from worker.lifecycle import station
from worker.measuring import measure
from worker.reruns import RERUN
from worker.run import run

log = structlog.get_logger()


@app.task(name=ANALYZE_CASE)
def analyze_case(*args: object, **kwargs: object) -> None:
    """Give one waiting case an analysis. Safe to run twice for the same case.

    Takes one case id. The signature accepts anything, because Celery drops messages that do not fit it.
    """
    _at_the_edge("case", lambda case_id: run(station(), ANALYZE, case_id), args, kwargs)


@app.task(name=ANSWER_QUESTION)
def answer_question(*args: object, **kwargs: object) -> None:
    """Give one question about a case an answer. Safe to run twice for the same question."""
    _at_the_edge("question", lambda question_id: run(station(), ANSWER, question_id), args, kwargs)


@app.task(name=RERUN_CASE)
def rerun_case(*args: object, **kwargs: object) -> None:
    """Analyse one case once more. Safe to run twice for the same rerun."""
    _at_the_edge("rerun", lambda rerun_id: run(station(), RERUN, rerun_id), args, kwargs)


@app.task(name=MEASURE_CASE)
def measure_case(*args: object, **kwargs: object) -> None:
    """Measure what the score of one case depends on. Safe to run twice for the same case."""
    _at_the_edge("case", lambda case_id: measure(station(), case_id), args, kwargs)


def _at_the_edge(
    what: str, do: Callable[[UUID], None], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    """Do it for the one id that the message carries, and log any error.

    The row is unchanged, or its hold ends by itself: either way the sweeper publishes it again. A measurement is asked
    for again when somebody opens the case.
    """
    row_id = _only_id(what, args, kwargs)
    if row_id is None:
        return
    left = f"{what}_left"
    with structlog.contextvars.bound_contextvars(**{what: str(row_id)}):
        try:
            do(row_id)
        except BonafideError as error:
            log.warning(left, action="message", error=str(error), code=error.code)
        except BaseException as error:
            log.error(left, action="message", exc_info=error)


def _only_id(what: str, args: tuple[object, ...], kwargs: dict[str, object]) -> UUID | None:
    """The one id that the message carries. None: it carries something else, and was kept as a dead letter."""
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
