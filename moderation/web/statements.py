"""The draft of a statement of reasons for the current decision, or for one whose appeal is open."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from moderation.database.cases import require_case
from moderation.database.review import appealed_decisions, last_appeals, standing_decisions
from moderation.decisions import Decision
from moderation.errors import NothingDecided
from moderation.evidence.rows import evidence_of
from moderation.evidence.sentences import statement_sentences
from moderation.reports.statements import Harm, Origin, Restriction, StatementDraft, statement
from moderation.web.callers import OnlyKnownParameters, Reader
from moderation.web.problems import RESPONSES, documented
from moderation.web.services import Services, ServicesDep
from moderation.wire import StatementOut

router = APIRouter(prefix="/v1", responses=RESPONSES, dependencies=[OnlyKnownParameters])


@router.get(
    "/cases/{case_id}/statement",
    responses=documented({404: "No case has this id, or nothing is decided about it"}),
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

    While an appeal is open, it states the decision that is appealed against. It has fixed sentences without personal
    data. `statement` is null when the decision restricts nothing.
    """
    drafted = draft_of(services, case_id, restriction, harm, origin)
    draft = drafted.draft
    return StatementOut(
        case=case_id,
        decision=drafted.decision.id,
        appealed=drafted.appealed,
        facts=draft.facts,
        statement=None if draft.statement is None else dict(draft.statement),
        to_check=dict(draft.to_check),
    )


@dataclass(frozen=True)
class Drafted:
    """A draft, and the decision that it states."""

    decision: Decision
    #: Whether an appeal of the decision is open: another person decides again.
    appealed: bool
    draft: StatementDraft


def draft_of(
    services: Services, case_id: UUID, restriction: Restriction, harm: Harm, origin: Origin
) -> Drafted:
    """The draft for the current decision, or for the one whose appeal is open. Raise CaseNotFound or NothingDecided."""
    with services.database.transaction() as session:
        case = require_case(session, case_id)
        decision = standing_decisions(session, [case_id]).get(case_id)
        appeals = last_appeals(session, [case_id]).values()
        open_appeals = [appeal for appeal in appeals if appeal.resolved_by is None]
        appealed = appealed_decisions(session, open_appeals).get(case_id)
        beside = evidence_of(session, [case_id]).get(case_id)
    decision = decision or appealed
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
    return Drafted(decision, decision is appealed, draft)
