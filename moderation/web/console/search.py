"""Search: cases by what people know of them. Every search has its own address, which can be kept and shared."""

from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from moderation.database.queue import lines_of
from moderation.database.search import Search, SearchField, search_cases
from moderation.web.console.access import VisitorDep, member
from moderation.web.console.pages import PageRoute, page
from moderation.web.console.queue import lines_for
from moderation.web.services import ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)

PAGE = 50
#: Characters of a search: an S3 key has up to 1,024 bytes, and its bucket comes first.
LONGEST = 1200

FIELDS = (
    (SearchField.ID, "Case id"),
    (SearchField.EXTERNAL_ID, "External id"),
    (SearchField.KEY, "Image key"),
    (SearchField.SHA256, "sha256"),
    (SearchField.SOURCE, "Source"),
    (SearchField.CONTEXT, "Context"),
)


@router.get("/search")
def show_search(
    services: ServicesDep,
    visitor: VisitorDep,
    q: Annotated[str, Query(max_length=LONGEST)] = "",
    field: Annotated[str, Query(alias="in", max_length=20)] = "",
    source: Annotated[str, Query(max_length=200)] = "",
    older: UUID | None = None,
) -> Response:
    """Search all fields that the text may be, or the field `in`."""
    wanted = Search(q, member(SearchField, field), source or None)
    with services.database.transaction() as session:
        found = search_cases(session, wanted, older_than=older, limit=PAGE + 1)
        lines = lines_for(session, services, visitor.person, lines_of(session, found[:PAGE]))
    asked = {name: value for name, value in (("q", q), ("in", field), ("source", source)) if value}
    return page(
        services,
        visitor,
        "search.html",
        section="/search",
        q=q,
        field=wanted.field,
        source=source,
        fields=FIELDS,
        lines=lines,
        more=urlencode({**asked, "older": found[PAGE - 1]}) if len(found) > PAGE else None,
    )
