"""Webhooks: the endpoints of platforms, and the result of each delivery."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from moderation.database.outbox import Kind
from moderation.errors import EndpointRefused
from moderation.people import Act, require
from moderation.web.console.access import FormDep, VisitorDep, field
from moderation.web.console.pages import PageRoute, Visitor, go, page
from moderation.web.console.words import sentence
from moderation.web.services import Services, ServicesDep
from moderation.webhooks.delivery_rows import DeliveryState

router = APIRouter(route_class=PageRoute, include_in_schema=False)

PAGE = 50


@router.get("/webhooks")
def show_webhooks(services: ServicesDep, visitor: VisitorDep) -> Response:
    return _webhooks(services, visitor)


@router.post("/webhooks")
def add_endpoint(services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    require(visitor.person, Act.MANAGE_WEBHOOKS)
    kinds = [kind for kind in Kind if kind.value in form.getlist("kind")]
    try:
        added = services.webhooks.add(field(form, "url") or "", kinds, field(form, "source", at_most=200))
    except EndpointRefused as error:
        return _webhooks(services, visitor, refused=sentence(str(error)), status=422)
    if added.secret is None:  # the endpoint existed already
        return go(f"/webhooks/{added.endpoint.id}")
    return _webhooks(services, visitor, secret_of=added.endpoint.url, secret=added.secret)


@router.get("/webhooks/{endpoint_id}")
def show_endpoint(
    endpoint_id: UUID,
    services: ServicesDep,
    visitor: VisitorDep,
    before: Annotated[UUID | None, Query()] = None,
) -> Response:
    """The log of one endpoint, the newest delivery first."""
    require(visitor.person, Act.RESEND)
    found = services.webhooks.deliveries(endpoint_id, limit=PAGE + 1, before=before)
    return page(
        services,
        visitor,
        "webhook.html",
        section="/webhooks",
        endpoint=services.webhooks.endpoint(endpoint_id),
        deliveries=found[:PAGE],
        more=found[PAGE - 1].id if len(found) > PAGE else None,
        tones={
            DeliveryState.DELIVERED: "bona_fide",
            DeliveryState.DEAD: "deepfake",
            DeliveryState.WAITING: "",
        },
        may_manage=visitor.may(Act.MANAGE_WEBHOOKS),
    )


@router.get("/webhooks/{endpoint_id}/remove")
def ask_before_removing(endpoint_id: UUID, services: ServicesDep, visitor: VisitorDep) -> Response:
    """Ask before an endpoint is removed for good."""
    require(visitor.person, Act.MANAGE_WEBHOOKS)
    endpoint = services.webhooks.endpoint(endpoint_id)
    return page(
        services,
        visitor,
        "confirm.html",
        section="/webhooks",
        title=f"Remove {endpoint.url}?",
        message="It is told nothing more. Its log goes for good, and so does what is still in line for it. "
        "To stop for a while, disable it instead.",
        action=f"/webhooks/{endpoint_id}/remove",
        words="Remove it",
        back=f"/webhooks/{endpoint_id}",
    )


@router.post("/webhooks/{endpoint_id}/{what}")
def change_endpoint(
    endpoint_id: UUID, what: str, services: ServicesDep, visitor: VisitorDep, form: FormDep
) -> Response:
    require(visitor.person, Act.MANAGE_WEBHOOKS)
    match what:
        case "disable":
            services.webhooks.disable(endpoint_id)
        case "enable":
            services.webhooks.enable(endpoint_id)
        case "remove":
            services.webhooks.remove(endpoint_id)
            return go("/webhooks")
        case "rotate":
            endpoint = services.webhooks.rotate(endpoint_id)
            return _webhooks(services, visitor, secret_of=endpoint.url, secret=endpoint.secrets[0])
        case _:
            pass
    return go(f"/webhooks/{endpoint_id}")


@router.post("/deliveries/{delivery_id}/resend")
def resend(delivery_id: UUID, services: ServicesDep, visitor: VisitorDep, form: FormDep) -> Response:
    require(visitor.person, Act.RESEND)
    delivery = services.webhooks.resend(delivery_id)
    return go(f"/webhooks/{delivery.endpoint_id}")


def _webhooks(services: Services, visitor: Visitor, *, status: int = 200, **shown: str) -> Response:
    """The page with what is shown only now: `secret` and `secret_of`, or `refused`."""
    require(visitor.person, Act.RESEND)
    return page(
        services,
        visitor,
        "webhooks.html",
        section="/webhooks",
        status=status,
        endpoints=services.webhooks.endpoints(),
        dead=services.webhooks.dead(limit=20),
        kinds=list(Kind),
        may_manage=visitor.may(Act.MANAGE_WEBHOOKS),
        **shown,
    )
