"""Certificates, for leads: what the model may be trusted with here, how its audit goes, and for admins the switch."""

from fastapi import APIRouter
from fastapi.responses import Response

from moderation.errors import RequestRefused
from moderation.evidence import zones
from moderation.people import Act, require
from moderation.web.console.access import FormDep, VisitorDep, field
from moderation.web.console.pages import PageRoute, go, page
from moderation.web.services import ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/certificates")
def show_certificates(services: ServicesDep, visitor: VisitorDep) -> Response:
    require(visitor.person, Act.SEE_INSIGHT)
    with services.database.transaction() as session:
        found = zones.certificates(session)
    return page(
        services,
        visitor,
        "certificates.html",
        here="/certificates",
        certificates=found,
        may_use=visitor.may(Act.USE_CERTIFICATES),
        share=services.settings.blind_first_share,
        moved_hours=zones.MOVED_SECONDS // 3600,
    )


@router.post("/certificates/{certificate_id}/use")
def use(certificate_id: int, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    """Turn a certificate on or off. An id is an integer of Postgres."""
    require(visitor.person, Act.USE_CERTIFICATES)
    if not 0 < certificate_id < 2**31:
        raise RequestRefused("there is no such certificate")
    share = services.settings.blind_first_share
    with services.database.transaction() as session:
        if field(form, "on"):
            zones.use(session, certificate_id, actor=visitor.person.actor, blind_share=share)
        else:
            zones.stop_using(session, certificate_id)
    return go("/certificates")
