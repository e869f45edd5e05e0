"""The draft of a statement of reasons for the current decision."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from moderation.database.cases import require_case
from moderation.database.review import standing_decisions
from moderation.decisions import Decision
from moderation.errors import NothingDecided
from moderation.evidence.rows import evidence_of
from moderation.evidence.sentences import statement_sentences
from moderation.reports.statements import Harm, Origin, Restriction, StatementDraft, statement
from moderation.web.callers import OnlyKnownParameters, Reader
from moderation.web.problems import RESPONSES
from moderation.web.services import Services, ServicesDep
from moderation.wire import Problem, StatementOut

router = APIRouter(prefix="/v1", responses=RESPONSES, dependencies=[OnlyKnownParameters])


@router.get(
    "/cases/{case_id}/statement",
    response_model=StatementOut,
    responses={404: {"model": Problem, "description": "No case has this id, or nothing is decided about it"}},
    summary="Draft a statement of reasons",
)
def get_statement(
    case_id: UUID,
    services: ServicesDep,
    key: Reader,
    restriction: Annotated[
        Restriction, Query(description="What you do to the image.")
    ] = Restriction.LABELLED,
    harm: Annotated[Harm, Query(description="What is wrong with this deepfake.")] = Harm.TERMS,
    origin: Annotated[Origin, Query(description="How you came to know of it.")] = Origin.VOLUNTARY,
) -> StatementOut:
    """A draft for you to complete, in the fields of the EU's transparency database (DSA, art. 17).

    It has fixed sentences without personal data. `statement` is null when the decision restricts nothing.
    """
    decision, draft = draft_of(services, case_id, restriction, harm, origin)
    return StatementOut(
        case=case_id,
        decision=decision.id,
        facts=draft.facts,
        statement=None if draft.statement is None else dict(draft.statement),
        to_check=dict(draft.to_check),
    )


def draft_of(
    services: Services, case_id: UUID, restriction: Restriction, harm: Harm, origin: Origin
) -> tuple[Decision, StatementDraft]:
    """The current decision, and the draft for it. Raise CaseNotFound or NothingDecided."""
    with services.database.transaction() as session:
        case = require_case(session, case_id)
        decision = standing_decisions(session, [case_id]).get(case_id)
        beside = evidence_of(session, [case_id]).get(case_id)
    if decision is None:
        raise NothingDecided("nothing is decided about this case")
    draft = statement(
        decision,
        flagged_at=case.created_at,
        restriction=restriction,
        harm=harm,
        origin=origin,
        evidence=statement_sentences(beside and beside.evidence),
    )
    return decision, draft
