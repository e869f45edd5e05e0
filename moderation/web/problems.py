"""Errors as RFC 9457 problem details: a stable `code` for machines, a sentence for people, no internals."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from moderation.errors import (
    BonafideError,
    BrokerUnavailable,
    CaseNotFound,
    DatabaseUnavailable,
    DecisionNotFound,
    DeliveryNotFound,
    EndpointNotFound,
    IdempotencyConflict,
    NotAllowed,
    NothingDecided,
    PersonExists,
    PersonNotFound,
    ReviewConflict,
    StaleCase,
    StorageUnavailable,
    Throttled,
    TooManyQuestions,
    TransitionRefused,
    Unavailable,
)
from moderation.errors import RequestRefused as _Refused
from moderation.wire import ChangeOut, Problem, field_name, what_is_wrong

#: Seconds after which a client may try again when one of our services does not answer.
RETRY_AFTER = 5

#: Errors of a request that go into its sentence. All of them are listed beside it.
SAID_AT_ONCE = 3


def documented(meanings: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """The problems that a call may answer, by status, for the OpenAPI document."""
    return {status: {"model": Problem, "description": meaning} for status, meaning in meanings.items()}


#: What every call may answer.
RESPONSES = documented(
    {
        401: "No key, or one that opens nothing",
        403: "The key lacks the scope",
        422: "The request cannot be read, or asks for what this installation does not do",
        503: "Something of ours does not answer; try again after `Retry-After` seconds",
    }
)
#: What calls about a case may answer too.
NO_CASE = documented({404: "No case has this id"})
#: What calls that open cases may answer too.
TOO_MANY = documented(
    {429: "`too_many_cases`: more than this key may open now; try again after `Retry-After` seconds"}
)
#: What calls that read a body may answer too.
OF_BODIES = {
    413: "`request_too_large`: the body has more bytes than are read",
    415: "`unsupported_media_type`: the body's Content-Type is not application/json",
}

#: Sentences for a service that does not answer. The log says where it runs and which user we were.
_AWAY = {
    DatabaseUnavailable.code: "the database does not answer; try again in a moment",
    BrokerUnavailable.code: "the broker does not answer; try again in a moment",
    StorageUnavailable.code: "the storage of images does not answer; try again in a moment",
}
_FAULT = "This is a fault of ours. It was logged under the request id."

log = structlog.get_logger()


class Unauthenticated(BonafideError):
    code = "unauthenticated"


class ScopeMissing(BonafideError):
    code = "scope_missing"


class RequestTooLarge(BonafideError):
    code = "request_too_large"


class NotJson(BonafideError):
    """A body comes as something else than JSON, by its Content-Type."""

    code = "unsupported_media_type"


def status_of(error: BonafideError) -> int:
    """The HTTP status that tells a client what to do next."""
    match error:
        case CaseNotFound() | DecisionNotFound() | DeliveryNotFound() | EndpointNotFound():
            return 404
        case NothingDecided() | PersonNotFound():
            return 404
        case IdempotencyConflict() | PersonExists() | TransitionRefused() | ReviewConflict():
            return 409
        case Unauthenticated():
            return 401
        case ScopeMissing() | NotAllowed():
            return 403
        case Throttled() | TooManyQuestions():
            return 429
        case RequestTooLarge():
            return 413
        case NotJson():
            return 415
        case _Refused():
            return 422
        case Unavailable():
            return 503
        case _:
            return 500


def sentence_of(error: BonafideError) -> str:
    """The sentence about an error for an HTTP client."""
    match status_of(error):
        case 503:
            return _AWAY.get(error.code, "something of ours does not answer; try again in a moment")
        case 500:
            return _FAULT
        case _:
            return str(error)


def problem_of(error: BonafideError, request_id: str | None = None) -> Problem:
    code = error.code
    title = code.replace("_", " ").capitalize()
    changes = None
    if isinstance(error, StaleCase):
        changes = [ChangeOut(kind=kind, at=at) for kind, _, at in error.changes]
    return Problem(
        title=title,
        status=status_of(error),
        code=code,
        detail=sentence_of(error),
        request_id=request_id,
        changes=changes,
    )


def invalid(errors: Sequence[Any], request_id: str | None = None) -> Problem:
    """The problem of an unreadable request: each wrong place, by the sender's name for it, with what is wrong."""
    places = [_place(error) for error in errors]
    return Problem(
        title="Invalid request",
        status=422,
        code="invalid_request",
        detail="; ".join(f"{name} {where['detail']}" for name, where in places[:SAID_AT_ONCE]),
        request_id=request_id,
        errors=[where for _, where in places],
    )


#: Our words for the parts of a request outside its body, by FastAPI's names.
_PARAMETERS = {"query": "the parameter", "path": "the part of the path", "header": "the header"}


def _place(error: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """A place's name in a sentence, and its JSON pointer (RFC 6901) into the body or its parameter."""
    part, *rest = error["loc"] or ("body",)
    said = what_is_wrong(error)
    if part in _PARAMETERS:
        name = str(rest[0]) if rest else str(part)
        return f"{_PARAMETERS[part]} {name}", {"parameter": name, "in": part, "detail": said}
    inside = [] if error["type"] == "json_invalid" else rest  # there it is only the number of a character
    pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in inside)
    return field_name(inside) or "the body", {"pointer": pointer, "detail": said}


def _not_json(error: ValueError | RecursionError) -> dict[str, Any]:
    """Why Python's reader gave a body up that need not even be wrong as JSON, in the form of pydantic's errors."""
    match error:
        case UnicodeDecodeError():
            why = "it is not in UTF-8"
        case RecursionError():
            why = "it is nested too deeply"
        case _:
            why = "a number in it has too many digits"
    return {"type": "json_invalid", "loc": ("body",), "ctx": {"error": why}}


def answer(problem: Problem, headers: dict[str, str] | None = None) -> Response:
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=headers,
    )


def about(request: Request) -> dict[str, str]:
    """The request's case, for its line in the log."""
    case_id = request.path_params.get("case_id")
    return {} if case_id is None else {"case": str(case_id)}


def install(app: FastAPI, page: Callable[[Request, Problem], Response | None]) -> None:
    """Turn every error of this app into a problem.

    `page` makes a page for people when the request is no API call; None where a page is no use.
    """

    def on_ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, BonafideError)
        problem = problem_of(error, _request_id(request))
        if problem.status >= 500:
            log.error(
                "request_failed",
                action="request",
                path=request.url.path,
                code=error.code,
                error=str(error),
                **about(request),
            )
        headers = {"Retry-After": str(RETRY_AFTER)} if problem.status == 503 else {}
        if isinstance(error, Throttled):
            headers["Retry-After"] = str(math.ceil(error.retry_after))
        if problem.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return answer(problem, headers)

    def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(invalid(error.errors(), _request_id(request)))

    def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 400:
            # FastAPI answers so to whatever stops it while it reads a body, and names the cause.
            match error.__cause__:
                case BonafideError() as ours:
                    return on_ours(request, ours)
                case ValueError() | RecursionError() as unread:
                    return answer(invalid([_not_json(unread)], _request_id(request)))
                case _:
                    pass
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        detail = str(error.detail)
        problem = Problem(
            title=detail, status=error.status_code, code=code, detail=detail, request_id=_request_id(request)
        )
        return page(request, problem) or answer(problem, dict(error.headers or {}))

    def on_bug(request: Request, error: Exception) -> Response:
        log.error("request_failed", action="request", path=request.url.path, exc_info=error, **about(request))
        problem = Problem(
            title="Internal error",
            status=500,
            code="internal",
            detail=_FAULT,
            request_id=_request_id(request),
        )
        return page(request, problem) or answer(problem)

    app.add_exception_handler(BonafideError, on_ours)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(Exception, on_bug)


def _request_id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)
