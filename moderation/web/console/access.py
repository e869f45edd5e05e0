"""Who is asking, and whether a form is one of ours."""

import enum
import hmac
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from starlette.datastructures import FormData

from moderation.web.console.pages import FormForged, SignInNeeded, Visitor
from moderation.web.services import Services, ServicesDep
from moderation.web.sessions import cookie_of

#: Fields of one form at the most: a page of cases to decide together, with room.
_FIELDS_AT_MOST = 500


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
    return visitor


VisitorDep = Annotated[Visitor, Depends(_signed_in)]
#: Whose page lies open and asks by itself: that keeps nobody signed in.
OpenPageDep = Annotated[Visitor, Depends(_left_open)]


async def _posted(request: Request, visitor: VisitorDep) -> FormData:
    form = await request.form(max_files=0, max_fields=_FIELDS_AT_MOST)
    require_token(request, form, visitor.csrf)
    return form


#: The fields of a form that came from one of our pages, by somebody who is signed in.
FormDep = Annotated[FormData, Depends(_posted)]


def require_token(request: Request, form: FormData, expected: str) -> None:
    """Raise FormForged unless the form, or the header of a script of ours, carries this token."""
    given = form.get("csrf") or request.headers.get("X-CSRF-Token") or ""
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), expected.encode()):
        raise FormForged(
            "this form is not from a page of yours that is still good: go back and load it again"
        )


def field(form: FormData, name: str, *, at_most: int = 2000) -> str | None:
    """What somebody wrote, without control characters and blanks around it. None when that is nothing."""
    value = form.get(name)
    if not isinstance(value, str):
        return None
    written = "".join(c for c in value.replace("\r\n", "\n") if c.isprintable() or c in "\n\t").strip()
    return written[:at_most] or None


_E = TypeVar("_E", bound=enum.StrEnum)


def member(kind: type[_E], value: str | None) -> _E | None:
    """The one of these that has this value. None when none has."""
    try:
        return kind(value) if value else None
    except ValueError:
        return None
