"""The draft of a statement of reasons, for those who inform the uploader and the public database."""

import json
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from moderation.reports.statements import Harm, Origin, Restriction
from moderation.web.console.access import VisitorDep
from moderation.web.console.pages import PageRoute, page
from moderation.web.services import ServicesDep
from moderation.web.statements import draft_of

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
    """The draft in the fields of the EU's transparency database. The platform completes and sends it."""
    drafted = draft_of(services, case_id, restriction, harm, origin)
    draft = drafted.draft
    return page(
        services,
        visitor,
        "statement.html",
        case_id=case_id,
        draft=draft,
        appealed=drafted.appealed,
        printed=None if draft.statement is None else json.dumps(dict(draft.statement), indent=2),
        choices=(
            ("restriction", "What is done to the picture", list(Restriction), restriction),
            ("harm", "What is wrong with it", list(Harm), harm),
            ("origin", "How it became known", list(Origin), origin),
        ),
    )
