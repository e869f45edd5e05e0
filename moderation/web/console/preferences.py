"""Preferences for pictures and pages. The server keeps them, so that they are the same in every browser."""

import dataclasses

from fastapi import APIRouter, Request
from fastapi.responses import Response

from moderation.accounts.accounts import PASSWORD_AT_LEAST
from moderation.errors import PasswordRefused, SignInRefused, SignInThrottled
from moderation.people import Theme
from moderation.web.console.access import FormDep, VisitorDep, field, member, typed
from moderation.web.console.pages import PageRoute, Visitor, go, page
from moderation.web.console.sign_in import address_of
from moderation.web.console.words import sentence
from moderation.web.services import Services, ServicesDep
from moderation.web.sessions import cookie_of

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_THEMES = ((Theme.AUTO, "As the browser says"), (Theme.LIGHT, "Light"), (Theme.DARK, "Dark"))


@router.get("/preferences")
def show_preferences(request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    return _preferences(services, visitor, saved=request.query_params.get("saved"))


def _preferences(
    services: Services, visitor: Visitor, *, saved: str | None = None, refused: str = ""
) -> Response:
    return page(
        services,
        visitor,
        "preferences.html",
        status=422 if refused else 200,
        themes=_THEMES,
        preferences=visitor.person.preferences,
        saved=saved,
        refused=refused,
        at_least=PASSWORD_AT_LEAST,
    )


@router.post("/preferences")
def set_preferences(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    services.accounts.set_preferences(
        visitor.person,
        dataclasses.replace(
            visitor.person.preferences,
            blur=form.get("blur") == "on",
            greyscale=form.get("greyscale") == "on",
            shortcuts=form.get("shortcuts") == "on",
            theme=member(Theme, field(form, "theme")) or Theme.AUTO,
        ),
    )
    return go("/preferences?saved=preferences")


@router.post("/preferences/picture")
def set_picture(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """The buttons over a picture change blur or greyscale."""
    named = {name: form.get(name) == "on" for name in ("blur", "greyscale") if name in form}
    services.accounts.set_preferences(
        visitor.person, dataclasses.replace(visitor.person.preferences, **named)
    )
    return Response(status_code=204)


@router.get("/password/first")
def show_first_password(services: ServicesDep, visitor: VisitorDep) -> Response:
    """The page for a person who signed in with a password that somebody else made."""
    if not visitor.person.first_password:
        return go("/queue")
    return _first_password(services, visitor)


@router.post("/password/first")
def choose_password(request: Request, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    new = typed(form, "new")
    if new != typed(form, "again"):
        return _first_password(services, visitor, refused="The two are not the same.")
    try:
        services.accounts.choose_password(visitor.person, new, secret=cookie_of(request) or "")
    except PasswordRefused as error:
        return _first_password(services, visitor, refused=sentence(str(error)))
    return go("/queue")


def _first_password(services: Services, visitor: Visitor, *, refused: str = "") -> Response:
    return page(
        services,
        visitor,
        "first_password.html",
        status=422 if refused else 200,
        refused=refused,
        at_least=PASSWORD_AT_LEAST,
    )


@router.post("/preferences/password")
def change_password(request: Request, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    try:
        services.accounts.change_password(
            visitor.person,
            typed(form, "old"),
            typed(form, "new"),
            secret=cookie_of(request) or "",
            address=address_of(request),
        )
    except (SignInRefused, SignInThrottled, PasswordRefused) as error:
        said = "your present password is another one" if isinstance(error, SignInRefused) else str(error)
        return _preferences(services, visitor, refused=sentence(said))
    return go("/preferences?saved=password")
