"""Decisions: undo one, make one for many cases, and list my own."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response
from starlette.datastructures import FormData

from moderation.database.console import decisions_by
from moderation.database.queue import lines_of
from moderation.database.review import find_decision
from moderation.decisions import Decision
from moderation.errors import BonafideError, JudgementIncomplete, TextTooLong
from moderation.people import Act, require
from moderation.web.console import words
from moderation.web.console.access import FormDep, VisitorDep, field, number, typed
from moderation.web.console.case_view import in_words
from moderation.web.console.cases import read_judgement
from moderation.web.console.pages import BULK_AT_MOST, PageRoute, Visitor, case_path, go, page
from moderation.web.console.queue import lines_for
from moderation.web.services import Services, ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)

#: Decisions on a page of my decisions.
PAGE = 50


@dataclass(frozen=True)
class Decided:
    """The result for one of many cases."""

    case_id: UUID
    decision: Decision | None
    refused: str


@router.get("/decisions")
def show_decisions(
    services: ServicesDep, visitor: VisitorDep, before: Annotated[UUID | None, Query()] = None
) -> Response:
    """My decisions, the newest first, with those that I can still undo."""
    with services.database.transaction() as session:
        found = decisions_by(session, visitor.person.id, before=before, limit=PAGE + 1)
    now = datetime.now(UTC)
    said = [(decision.case_id, in_words(decision, now)) for decision in found[:PAGE]]
    more = found[PAGE - 1].id if len(found) > PAGE else None
    return page(services, visitor, "decisions.html", said=said, more=more)


@router.post("/decisions/{decision_id}/undo")
def undo(decision_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Undo a decision, and show the case again."""
    services.review.undo(visitor.person, decision_id)
    with services.database.transaction() as session:
        undone = find_decision(session, decision_id)
    return go("/queue" if undone is None else case_path(undone.case_id))


@router.post("/decisions/undo")
def undo_many(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Undo decisions that were made together. Those that can no longer be undone stay."""
    for decision_id in _ids(form, "decision"):
        try:
            services.review.undo(visitor.person, decision_id, keep=False)
        except BonafideError:
            continue  # the next page shows which of them stand
    return go("/decisions")


@router.post("/decisions/confirm")
def confirm(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Before a decision about many cases: show how many they are, and which."""
    require(visitor.person, Act.BULK_DECIDE)
    return _ask(services, visitor, form)


def _ask(
    services: Services, visitor: Visitor, form: FormData, *, refused: str = "", status: int = 200
) -> Response:
    selected = _selected(form)
    with services.database.transaction() as session:
        lines = lines_for(
            session, services, visitor.person, lines_of(session, [case_id for case_id, _ in selected])
        )
    return page(
        services,
        visitor,
        "bulk.html",
        status=status,
        lines=lines,
        versions=dict(selected),
        outcome=form.get("outcome"),
        technique=form.get("technique"),
        reason=typed(form, "reason"),
        refused=refused,
        sources=sorted(Counter(line.case.source for line in lines).items()),
        done=None,
        back=field(form, "from") or "",
    )


@router.post("/decisions/bulk")
def decide_many(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    selected = _selected(form)
    try:
        judgement = read_judgement(form)
    except (JudgementIncomplete, TextTooLong) as error:
        require(visitor.person, Act.BULK_DECIDE)
        return _ask(services, visitor, form, refused=words.sentence(str(error)), status=422)
    if (field(form, "count") or "") != str(len(selected)):
        raise JudgementIncomplete("the number of cases is not the number that you confirmed")
    outcomes = services.review.decide_many(visitor.person, selected, judgement)
    done = [
        Decided(case_id, made, "") if isinstance(made, Decision) else Decided(case_id, None, str(made))
        for (case_id, _), made in zip(selected, outcomes, strict=True)
    ]
    return page(
        services,
        visitor,
        "bulk.html",
        done=done,
        said=words.decided_words(judgement.outcome, judgement.technique),
        back=field(form, "from") or "",
    )


def _selected(form: FormData) -> list[tuple[UUID, int]]:
    """Read the fields `case`, each "id:version"."""
    found: dict[UUID, int] = {}
    for value in form.getlist("case")[:BULK_AT_MOST]:
        case_id, _, written = cast("str", value).partition(":")
        version = number(written)
        if version is not None:
            found[_uuid(case_id)] = version
    if not found:
        raise JudgementIncomplete("choose at least one case")
    return list(found.items())


def _ids(form: FormData, name: str) -> list[UUID]:
    return [_uuid(cast("str", value)) for value in form.getlist(name)[:BULK_AT_MOST]]


def _uuid(value: str) -> UUID:
    try:
        return UUID(value)
    except ValueError as error:
        raise JudgementIncomplete("one of these is not a case") from error
