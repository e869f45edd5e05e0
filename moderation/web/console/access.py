"""Who is asking, and whether a form is one of ours."""

import enum
import hmac
from typing import Annotated, TypeVar
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.datastructures import FormData

from moderation.errors import TextTooLong
from moderation.web.console.pages import FirstPassword, FormForged, SignInNeeded, Visitor
from moderation.web.services import Services, ServicesDep
from moderation.web.sessions import cookie_of
from moderation.writing import as_written

#: Fields of one form at the most: a page of cases to decide together, with room.
FIELDS_AT_MOST = 500
#: What can be done with a first password, which somebody else knows too.
_BEFORE_THE_FIRST = ("/password/first", "/sign-out")


def visitor_of(request: Request, services: Services, *, used: bool = True) -> Visitor | None:
    """Who is signed in here; None when nobody is. Not `used`: a page that was left open asks by itself."""
    secret = cookie_of(request)
    session = None if secret is None else services.accounts.session(secret, used=used)
    return None if session is None else Visitor(session)


def _signed_in(request: Request, services: ServicesDep) -> Visitor:
    return _known(request, visitor_of(request, services))


def _left_open(request: Request, services: ServicesDep) -> Visitor:
    return _known(request, visitor_of(request, services, used=False))


def _known(request: Request, visitor: Visitor | None) -> Visitor:
    if visitor is None:
        raise SignInNeeded("sign in first")
    request.state.visitor = visitor
    if visitor.person.first_password and request.url.path not in _BEFORE_THE_FIRST:
        raise FirstPassword("choose a password of your own first")
    return visitor


VisitorDep = Annotated[Visitor, Depends(_signed_in)]
#: Whose page lies open and asks by itself: that keeps nobody signed in.
OpenPageDep = Annotated[Visitor, Depends(_left_open)]


async def _posted(request: Request, visitor: VisitorDep) -> FormData:
    form = await request.form(max_files=0, max_fields=FIELDS_AT_MOST)
    require_token(request, form, visitor.csrf, by=str(visitor.person.id))
    return form


#: The fields of a form that came from one of our pages, by somebody who is signed in.
FormDep = Annotated[FormData, Depends(_posted)]


def require_token(request: Request, form: FormData, expected: str, *, by: str | None = None) -> None:
    """Raise FormForged unless the form, or the header of a script of ours, carries this token.

    Or the token of a session before, when the browser says that the form lay on a page of ours: whoever signs in anew,
    in another tab say, sends what they had filled in. `by` is whose the form must be then.
    """
    given = form.get("csrf") or request.headers.get("X-CSRF-Token") or ""
    if isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode()):
        return
    whose = form.get("by") or request.headers.get("X-Person")
    if not given or not is_ours(request) or (by is not None and whose != by):
        raise FormForged(
            "this form is not from a page of yours that is still good: go back and load it again"
        )


def is_ours(request: Request) -> bool:
    """Whether the browser says that this was sent from a page of ours. Pages elsewhere cannot make it say so."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")


def field(form: FormData, name: str, *, at_most: int = 2000) -> str | None:
    """What somebody wrote, as they wrote it (`writing`). None when that is nothing. Raise TextTooLong."""
    value = form.get(name)
    written = as_written(value) if isinstance(value, str) else None
    if written is not None and len(written) > at_most:
        raise TextTooLong(name, len(written), at_most)
    return written


_E = TypeVar("_E", bound=enum.StrEnum)


def member(kind: type[_E], value: str | None) -> _E | None:
    """The one of these that has this value. None when none has."""
    try:
        return kind(value) if value else None
    except ValueError:
        return None
