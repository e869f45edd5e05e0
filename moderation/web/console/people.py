"""People who may sign in, for admins."""

from uuid import UUID

from fastapi import APIRouter
from fastapi.responses import Response

from moderation.errors import PersonExists, PersonNotFound, RequestRefused
from moderation.people import Role
from moderation.web.console.access import FormDep, VisitorDep, field
from moderation.web.console.pages import PageRoute, Visitor, go, page
from moderation.web.console.words import sentence
from moderation.web.problems import status_of
from moderation.web.services import Services, ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/people")
def show_people(services: ServicesDep, visitor: VisitorDep) -> Response:
    return _people(services, visitor)


@router.post("/people")
def add_person(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    email, name = field(form, "email", at_most=254) or "", field(form, "name", at_most=200) or ""
    try:
        person, password = services.accounts.invite(visitor.person, email, name, _role(field(form, "role")))
    except (PersonExists, RequestRefused) as error:
        return _people(services, visitor, refused=sentence(str(error)), status=status_of(error))
    return _people(services, visitor, password_of=person.email, password=password)


@router.post("/people/{person_id}/role")
def set_role(person_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    services.accounts.set_role(visitor.person, person_id, _role(field(form, "role")))
    return go("/people")


#: Actions that need a confirmation: words for the button, and what will happen.
_ASKED = {
    "disable": (
        "Disable",
        (
            "They are signed out everywhere and at once, and cannot sign in. The cases that they have before "
            "them go back to the queue. What they decided stays. You can enable them again."
        ),
    ),
    "password": (
        "Make a new password for",
        (
            "Their password stops working, and they are signed out everywhere. You are shown a new one once, "
            "to be passed on; they choose their own when they sign in with it."
        ),
    ),
}


@router.get("/people/{person_id}/{what}")
def ask_first(person_id: UUID, what: str, services: ServicesDep, visitor: VisitorDep) -> Response:
    """Ask before an action that shuts a person out."""
    found = next((one for one in services.accounts.people(visitor.person) if one.id == person_id), None)
    if found is None or what not in _ASKED:
        raise PersonNotFound("nobody has this id")
    words, consequence = _ASKED[what]
    return page(
        services,
        visitor,
        "confirm.html",
        section="/people",
        title=f"{words} {found.name}?",
        message=consequence,
        action=f"/people/{person_id}/{what}",
        words=words if what == "disable" else "Make a new password",
        back="/people",
    )


@router.post("/people/{person_id}/disable")
def disable(person_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    services.accounts.disable(visitor.person, person_id)
    return go("/people")


@router.post("/people/{person_id}/enable")
def enable(person_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    services.accounts.enable(visitor.person, person_id)
    return go("/people")


@router.post("/people/{person_id}/password")
def reset_password(person_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    password = services.accounts.reset_password(visitor.person, person_id)
    email = next(one.email for one in services.accounts.people(visitor.person) if one.id == person_id)
    return _people(services, visitor, password_of=email, password=password)


def _role(value: str | None) -> Role:
    try:
        return Role(value or "")
    except ValueError as error:
        raise RequestRefused("choose a role") from error


def _people(services: Services, visitor: Visitor, *, status: int = 200, **shown: str) -> Response:
    """The page with what is shown only now: `password` and `password_of`, or `refused`."""
    people = services.accounts.people(visitor.person)
    return page(
        services,
        visitor,
        "people.html",
        section="/people",
        status=status,
        people=people,
        roles=list(Role),
        **shown,
    )
