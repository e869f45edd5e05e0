"""Certificates, for leads: how far the model is trusted here, and how the audit goes. Admins can switch them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy.orm import Session

from moderation.database.console import names_of
from moderation.database.events import EventChain
from moderation.errors import RequestRefused
from moderation.evidence import zones
from moderation.people import Act, require
from moderation.web.console.access import FormDep, VisitorDep, field
from moderation.web.console.case_view import actor_words, person_in
from moderation.web.console.pages import PageRoute, go, page
from moderation.web.services import ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)


#: The steps of a certificate, in words.
STEP_WORDS = {
    zones.CertificateStep.ISSUE: "Issued",
    zones.CertificateStep.USE: "Turned on",
    zones.CertificateStep.CLOSE: "Allowed to close cases",
    zones.CertificateStep.HOLD: "Closes no cases any more",
    zones.CertificateStep.STOP: "Turned off",
    zones.CertificateStep.REVOKE: "Revoked",
}


@dataclass(frozen=True)
class EventLine:
    """One event of a certificate."""

    at: datetime
    said: str
    who: str


@router.get("/certificates")
def show_certificates(services: ServicesDep, visitor: VisitorDep) -> Response:
    require(visitor.person, Act.SEE_INSIGHT)
    with services.database.transaction() as session:
        found = zones.certificates(session)
        chains = {certificate.id: zones.log_of(session, certificate.id) for certificate in found}
        logs = {number: _lines(session, chain) for number, chain in chains.items()}
    return page(
        services,
        visitor,
        "certificates.html",
        section="/certificates",
        certificates=found,
        logs=logs,
        broken={number: chain.broken_at for number, chain in chains.items()},
        may_use=visitor.may(Act.USE_CERTIFICATES),
        share=services.settings.blind_first_share,
        moved_hours=zones.MOVED_SECONDS // 3600,
    )


def _lines(session: Session, chain: EventChain) -> list[EventLine]:
    people = {found for event in chain.events if (found := person_in(event.actor))}
    names = names_of(session, people)
    return [
        EventLine(event.at, STEP_WORDS[zones.CertificateStep(event.kind)], actor_words(event.actor, names))
        for event in chain.events
    ]


@router.post("/certificates/{certificate_id}/use")
def use(certificate_id: int, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Turn a certificate on or off."""
    return _switch(certificate_id, services, visitor, form, on=zones.use, off=zones.stop_using)


@router.post("/certificates/{certificate_id}/close")
def close(certificate_id: int, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Let a certificate close the cases of its zone, or stop that."""
    return _switch(certificate_id, services, visitor, form, on=zones.let_close, off=zones.stop_closing)


def _switch(
    certificate_id: int,
    services: ServicesDep,
    visitor: VisitorDep,
    form: FormDep,
    *,
    on: Callable[..., None],
    off: Callable[..., None],
) -> Response:
    """Switch a certificate. Refuse an id that does not fit an integer of Postgres."""
    require(visitor.person, Act.USE_CERTIFICATES)
    if not 0 < certificate_id < 2**31:
        raise RequestRefused("there is no such certificate")
    share, actor = services.settings.blind_first_share, visitor.person.actor
    with services.database.transaction() as session:
        if field(form, "on"):
            on(session, certificate_id, actor=actor, blind_share=share)
        else:
            off(session, certificate_id, actor=actor)
    return go("/certificates")
