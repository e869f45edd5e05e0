"""Who calls, and whether a form came from our pages."""

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

#: Fields of one form, at most: more than a page of cases that are decided together.
FIELDS_AT_MOST = 500
#: Allowed with a first password, which somebody else knows too.
_BEFORE_THE_FIRST = ("/password/first", "/sign-out")


def visitor_of(request: Request, services: Services, *, used: bool = True) -> Visitor | None:
    """The person who is signed in; None when nobody is. `used=False`: an open page asks by itself."""
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
#: The visitor of an open page that asks by itself. It does not keep them signed in.
OpenPageDep = Annotated[Visitor, Depends(_left_open)]


async def _posted(request: Request, visitor: VisitorDep) -> FormData:
    form = await request.form(max_files=0, max_fields=FIELDS_AT_MOST)
    require_token(request, form, visitor.csrf, by=str(visitor.person.id))
    return form


#: The fields of a form from one of our pages, sent by a person who is signed in.
FormDep = Annotated[FormData, Depends(_posted)]


def require_token(request: Request, form: FormData, expected: str, *, by: str | None = None) -> None:
    """Raise FormForged unless the form, or our script's header, carries this token.

    The token of an earlier session also counts when the browser says that the form was on our page: a person who signs
    in again, for example in another tab, can send what they had filled in. `by` is then the form's required owner.
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
    """Whether the browser says that our page sent this. Other sites cannot make it say so."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc == request.headers.get("host")


def field(form: FormData, name: str, *, at_most: int = 2000) -> str | None:
    """A person's text as they wrote it (see `writing`). None when it is empty. Raise TextTooLong."""
    value = form.get(name)
    written = as_written(value) if isinstance(value, str) else None
    if written is not None and len(written) > at_most:
        raise TextTooLong(name, len(written), at_most)
    return written


def typed(form: FormData, name: str) -> str:
    """A field exactly as it was typed, such as a password. Empty when there is none."""
    value = form.get(name)
    return value if isinstance(value, str) else ""


def number(value: str | None, *, digits: int = 9) -> int | None:
    """The whole number in a text. None when there is none, or it has more digits. Nine fit an integer of Postgres."""
    return int(value) if value and value.isascii() and value.isdecimal() and len(value) <= digits else None


_E = TypeVar("_E", bound=enum.StrEnum)


def member(kind: type[_E], value: str | None) -> _E | None:
    """The member with this value. None when there is none."""
    try:
        return kind(value) if value else None
    except ValueError:
        return None
