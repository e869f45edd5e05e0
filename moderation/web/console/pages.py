"""How a page is made: templates, the headers of every page, and errors as pages that people can read."""

import hashlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast
from urllib.parse import urlencode, urlsplit
from uuid import UUID

import structlog
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.staticfiles import StaticFiles

from moderation.accounts.accounts import Session
from moderation.cases import ImageRef
from moderation.database.console import latest_undoable, made_together
from moderation.errors import BonafideError, NotAllowed, Throttled
from moderation.people import Act, Person, Preferences, may
from moderation.web.console import words
from moderation.web.problems import about, sentence_of, status_of
from moderation.web.services import Services

#: The navigation: path, words, and the act that a person must be allowed. None: everybody.
NAVIGATION: tuple[tuple[str, str, Act | None], ...] = (
    ("/queue", "Queue", None),
    ("/search", "Search", None),
    ("/insight", "Insight", Act.SEE_INSIGHT),
    ("/bundles", "Bundles", Act.SEE_INSIGHT),
    ("/certificates", "Certificates", Act.SEE_INSIGHT),
    ("/webhooks", "Webhooks", Act.RESEND),
    ("/people", "People", Act.MANAGE_PEOPLE),
)

#: Cases decided together, at most: a page of the queue holds no more.
BULK_AT_MOST = 100

log = structlog.get_logger()


class SignInNeeded(BonafideError):
    """Nobody is signed in."""

    code = "sign_in_needed"


class FirstPassword(BonafideError):
    """Somebody else knows this person's password: they must choose their own first."""

    code = "first_password"


class FormForged(NotAllowed):
    """A form came without its page's token: from another site, or after a new sign-in."""

    code = "form_forged"


@dataclass(frozen=True)
class Visitor:
    """The person who looks at a page."""

    session: Session

    @property
    def person(self) -> Person:
        return self.session.person

    @property
    def csrf(self) -> str:
        return self.session.csrf

    def may(self, act: Act) -> bool:
        return may(self.person, act)


@dataclass(frozen=True)
class Undoable:
    """The visitor's newest decision that can still be undone. Every page shows it until then."""

    #: More than one: decisions that were made together. They are undone together.
    ids: tuple[UUID, ...]
    #: The case of the first.
    case_id: UUID
    words: str
    final_at: datetime


@lru_cache(maxsize=1)
def templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("moderation.web.console"),
        autoescape=True,
        # Templates belong to the running code, even if the files change.
        auto_reload=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    given: dict[str, Any] = {
        "static": static_url,
        "navigation": NAVIGATION,
        "outcomes": words.OUTCOMES,
        "techniques": words.TECHNIQUES,
        "answers": words.ANSWERS,
        "state_words": words.STATE_WORDS,
    }
    environment.globals.update(given)
    for made in (words.ago, words.stamp, words.clock, words.span, words.size, short):
        environment.filters[made.__name__] = made
    return environment


def short(case_id: UUID) -> str:
    """The part of an id that people compare: its end, because ids of the same hour have the same beginning."""
    return case_id.hex[-8:]


@lru_cache
def static_url(name: str) -> str:
    """A URL that changes with the file's content, so that browsers can keep the file for ever."""
    data = files("moderation.web.console").joinpath("static", name).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(data).hexdigest()[:12]}"


class Static(StaticFiles):
    """The console's own files. The stylesheet names the font without a version, because the font never changes."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def page(
    services: Services,
    visitor: Visitor,
    template: str,
    *,
    status: int = 200,
    section: str = "",
    **context: object,
) -> HTMLResponse:
    """A page for a signed-in person, with the decision they may still undo. The whole context is escaped."""
    undoable = _undoable(services, visitor.person)
    return render(template, visitor=visitor, status=status, section=section, undoable=undoable, **context)


def render(template: str, *, visitor: Visitor | None, status: int = 200, **context: object) -> HTMLResponse:
    """A page or part of a page, for anybody."""
    preferences = visitor.person.preferences if visitor else Preferences()
    frame = {
        "section": "",
        "undoable": None,
        "undo_key": True,
        "theme": preferences.theme.value,
        "shortcuts": preferences.shortcuts,
    }
    html = templates().get_template(template).render({**frame, "visitor": visitor, **context})
    return HTMLResponse(html, status_code=status)


def _undoable(services: Services, person: Person) -> Undoable | None:
    with services.database.transaction() as session:
        decision = latest_undoable(session, person.id)
        if decision is None:
            return None
        ids = made_together(session, decision, limit=BULK_AT_MOST)
    said = words.decided_words(decision.outcome, decision.technique)
    return Undoable(tuple(ids), decision.case_id, f"Decided: {said}.", decision.final_at)


def go(path: str) -> RedirectResponse:
    """Redirect to another page of ours after a form."""
    return RedirectResponse(path, status_code=303)


def case_path(case_id: UUID, back: str | None = None) -> str:
    """The path of a case's page. `back`: the view of the queue that it leads back to, as a query."""
    return f"/cases/{case_id}" + (f"?{urlencode({'from': back})}" if back else "")


class PageRoute(APIRoute):
    """A route that answers with pages: strict headers, and errors that people can read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_as_page(request: Request) -> Response:
            try:
                response = await answer(request)
            except RequestValidationError:
                response = error_page(
                    request, "not_found", "Not found", "There is nothing at this address.", 404
                )
            except FirstPassword:
                response = go("/password/first")
            except SignInNeeded:
                response = await request.app.state.ask_to_sign_in(request)
            except BonafideError as error:
                response = _answer_error(request, error)
            for name, value in request.app.state.page_headers.items():
                response.headers.setdefault(name, value)
            return response

        return answer_as_page


def _answer_error(request: Request, error: BonafideError) -> Response:
    status = status_of(error)
    if status >= 500:
        log.error(
            "page_failed",
            action="page",
            path=request.url.path,
            code=error.code,
            exc_info=error,
            **about(request),
        )
    titles = {
        403: "Not allowed",
        404: "Not found",
        409: "Nothing was changed",
        503: "Something does not answer",
    }
    title = titles.get(status, "That did not work")
    response = error_page(request, error.code, title, words.sentence(sentence_of(error)), status)
    if isinstance(error, Throttled):
        response.headers["Retry-After"] = str(int(error.retry_after) + 1)
    return response


def error_page(request: Request, code: str, title: str, message: str, status: int) -> HTMLResponse:
    visitor = cast("Visitor | None", getattr(request.state, "visitor", None))
    return render(
        "error.html",
        visitor=visitor,
        status=status,
        code=code,
        title=title,
        message=message,
        request_id=getattr(request.state, "request_id", None) if status >= 500 else None,
    )


def security_headers(services: Services) -> dict[str, str]:
    """No inline script or style, nothing from other sites except pictures from our buckets, and nothing in caches."""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "font-src": "'self'",
        "connect-src": "'self'",
        "img-src": " ".join(["'self'", *_picture_origins(services)]),
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    }


def _picture_origins(services: Services) -> list[str]:
    """The origins of signed view URLs: the store's name, or on AWS one per bucket."""
    signed = [services.storage.sign_view(ImageRef(bucket, "x")) for bucket in services.settings.s3_buckets]
    urls = [urlsplit(url) for url in signed]
    return sorted({f"{url.scheme}://{url.netloc}" for url in urls})
