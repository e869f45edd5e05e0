"""Unknown addresses: programs get a problem, people a page with a way back."""

from fastapi import Request
from fastapi.responses import Response

from moderation.errors import BonafideError
from moderation.web.console.access import visitor_of
from moderation.web.console.pages import error_page
from moderation.wire import Problem

#: Programs call these paths, whatever they accept.
API = "/v1/"

_NOT_FOUND = ("Not found", "There is nothing at this address.")
_FAILED = ("Something failed", "This is a fault of ours. It was logged under the number below.")


def page_of_problem(request: Request, problem: Problem) -> Response | None:
    """A page about this problem, for a browser. None for a program."""
    if request.url.path.startswith(API) or "text/html" not in request.headers.get("accept", ""):
        return None
    try:
        request.state.visitor = visitor_of(request, request.app.state.services)
    except BonafideError:  # then the page shows no name
        request.state.visitor = None
    title, message = _FAILED if problem.status >= 500 else _NOT_FOUND
    response = error_page(request, problem.code, title, message, problem.status)
    response.headers.update(request.app.state.page_headers)
    return response
