"""Decisions by themselves: taking one back, one for many cases, and what I decided."""

from dataclasses import dataclass
from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response
from starlette.datastructures import FormData

from moderation.database.console import decisions_by
from moderation.database.queue import lines_of
from moderation.decisions import Decision
from moderation.errors import BonafideError, JudgementIncomplete, TextTooLong
from moderation.people import Act, require
from moderation.web.console import words
from moderation.web.console.access import FormDep, VisitorDep, field
from moderation.web.console.cases import read_judgement
from moderation.web.console.pages import PageRoute, Visitor, go, page
from moderation.web.console.queue import Line, lines_for
from moderation.web.console.show import in_words
from moderation.web.services import Services, ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)

#: Cases decided together at the most: what fits on a page of the queue.
BULK_AT_MOST = 100
#: Decisions on a page of my own.
PAGE = 50


@dataclass(frozen=True)
class Decided:
    """What became of one case of many."""

    case_id: UUID
    decision: Decision | None
    refused: str


@router.get("/decisions")
def show_decisions(
    services: ServicesDep, visitor: VisitorDep, before: Annotated[UUID | None, Query()] = None
) -> Response:
    """What I decided, the newest first, with what I can still take back."""
    with services.database.transaction() as session:
        found = decisions_by(session, visitor.person.id, before=before, limit=PAGE + 1)
    said = [(decision.case_id, in_words(decision)) for decision in found[:PAGE]]
    more = found[PAGE - 1].id if len(found) > PAGE else None
    return page(services, visitor, "decisions.html", said=said, more=more)


@router.post("/decisions/{decision_id}/undo")
def undo(decision_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Take it back, and show the case again."""
    services.review.undo(visitor.person, decision_id)
    case_id = next((d.case_id for d in _mine(services, visitor.person.id) if d.id == decision_id), None)
    return go("/queue" if case_id is None else f"/cases/{case_id}")


@router.post("/decisions/undo")
def undo_many(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Take back what was decided together; what can no longer be taken back stays."""
    for decision_id in _ids(form, "decision"):
        try:
            services.review.undo(visitor.person, decision_id, keep=False)
        except BonafideError:
            continue  # the page that follows shows which of them stand
    return go("/decisions")


@router.post("/decisions/confirm")
def confirm(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Say how many cases are about to be decided together, and what they are, before it is done."""
    require(visitor.person, Act.BULK_DECIDE)
    return _ask(services, visitor, form)


def _ask(
    services: Services, visitor: Visitor, form: FormData, *, refused: str = "", status: int = 200
) -> Response:
    chosen = _chosen(form)
    with services.database.transaction() as session:
        lines = lines_for(
            session, services, visitor.person, lines_of(session, [case_id for case_id, _ in chosen])
        )
    reason = form.get("reason")
    return page(
        services,
        visitor,
        "bulk.html",
        status=status,
        lines=lines,
        versions=dict(chosen),
        outcome=form.get("outcome"),
        technique=form.get("technique"),
        reason=reason if isinstance(reason, str) else "",
        refused=refused,
        outcomes=words.OUTCOMES,
        techniques=words.TECHNIQUES,
        sources=_by_source(lines),
        done=None,
        back=field(form, "from") or "",
    )


@router.post("/decisions/bulk")
def decide_many(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    chosen = _chosen(form)
    try:
        judgement = read_judgement(form)
    except (JudgementIncomplete, TextTooLong) as error:
        require(visitor.person, Act.BULK_DECIDE)
        return _ask(services, visitor, form, refused=words.sentence(str(error)), status=422)
    if (field(form, "count") or "") != str(len(chosen)):
        raise JudgementIncomplete("the number of cases is not the one that was confirmed")
    outcomes = services.review.decide_many(visitor.person, chosen, judgement)
    done = [
        Decided(case_id, one, "") if isinstance(one, Decision) else Decided(case_id, None, str(one))
        for (case_id, _), one in zip(chosen, outcomes, strict=True)
    ]
    return page(
        services,
        visitor,
        "bulk.html",
        done=done,
        said=words.decided_words(judgement.outcome, judgement.technique),
        back=field(form, "from") or "",
    )


def _mine(services: Services, person_id: UUID) -> list[Decision]:
    with services.database.transaction() as session:
        return decisions_by(session, person_id)


def _by_source(lines: list[Line]) -> list[tuple[str, int]]:
    sources = [line.case.source for line in lines]
    return sorted({source: sources.count(source) for source in sources}.items())


def _chosen(form: FormData) -> list[tuple[UUID, int]]:
    """Fields `case` with "id:version"."""
    found: dict[UUID, int] = {}
    for value in form.getlist("case")[:BULK_AT_MOST]:
        case_id, _, version = cast("str", value).partition(":")
        if version.isdecimal() and len(version) < 10:  # an integer of Postgres
            found[_uuid(case_id)] = int(version)
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
