"""The draft of a statement of reasons, for whoever has to tell the uploader and the public database."""

import json
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from moderation.database.cases import find_case
from moderation.database.review import standing_decisions
from moderation.errors import CaseNotFound, NothingDecided
from moderation.statements import Harm, Origin, Restriction, statement
from moderation.web.console.access import VisitorDep
from moderation.web.console.pages import PageRoute, page
from moderation.web.services import ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/cases/{case_id}/statement")
def show_statement(
    case_id: UUID,
    services: ServicesDep,
    visitor: VisitorDep,
    restriction: Annotated[Restriction, Query()] = Restriction.LABELLED,
    harm: Annotated[Harm, Query()] = Harm.TERMS,
    origin: Annotated[Origin, Query()] = Origin.VOLUNTARY,
) -> Response:
    """In the fields of the EU's transparency database, to be completed and sent by the platform."""
    with services.database.transaction() as session:
        case = find_case(session, case_id)
        decision = standing_decisions(session, [case_id]).get(case_id)
    if case is None:
        raise CaseNotFound(f"no case has the id {case_id}")
    if decision is None:
        raise NothingDecided("nothing is decided about this case")
    draft = statement(decision, flagged_at=case.created_at, restriction=restriction, harm=harm, origin=origin)
    return page(
        services,
        visitor,
        "statement.html",
        case_id=case_id,
        draft=draft,
        printed=None if draft.statement is None else json.dumps(dict(draft.statement), indent=2),
        choices=(
            ("restriction", "What is done to the picture", list(Restriction), restriction),
            ("harm", "What is wrong with it", list(Harm), harm),
            ("origin", "How it became known", list(Origin), origin),
        ),
    )
