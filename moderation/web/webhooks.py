"""Webhook endpoints of platforms: adding, listing, changing the secret, reading the log, sending again."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from moderation.database.outbox import Kind
from moderation.web.callers import OnlyJson, OnlyKnownParameters, WebhookManager
from moderation.web.problems import RESPONSES, documented
from moderation.web.services import ServicesDep
from moderation.webhooks.delivery_rows import Endpoint
from moderation.wire import DeliveryOut, DeliveryPage, EndpointIn, EndpointList, EndpointOut, WebhookOut

router = APIRouter(prefix="/v1", responses=RESPONSES, dependencies=[OnlyKnownParameters, OnlyJson])
#: For the `webhooks` section of the OpenAPI document: what we send, not what is called.
told = APIRouter()

_NO_ENDPOINT = documented({404: "No webhook endpoint has this id"})


@router.post(
    "/webhooks",
    status_code=201,
    responses={200: {"model": EndpointOut, "description": "This URL was told of this source already"}},
    summary="Be told what happens to cases",
)
def post_webhook(
    body: EndpointIn, response: Response, services: ServicesDep, key: WebhookManager
) -> EndpointOut:
    """The secret in the answer verifies signatures. It is shown only once; rotate it to get another.

    The same URL and source is the same endpoint, with the kinds of the last call.
    """
    kinds = [Kind(kind) for kind in body.kinds] if body.kinds else list(Kind)
    added = services.webhooks.add(body.url, kinds, body.source)
    if added.secret is None:
        response.status_code = 200
    return show_endpoint(added.endpoint, with_secret=added.secret is not None)


@router.get("/webhooks", summary="Read the webhook endpoints")
def get_webhooks(services: ServicesDep, key: WebhookManager) -> EndpointList:
    return EndpointList(webhooks=[show_endpoint(endpoint) for endpoint in services.webhooks.endpoints()])


@router.delete("/webhooks/{endpoint_id}", status_code=204, responses=_NO_ENDPOINT, summary="Be told no more")
def delete_webhook(endpoint_id: UUID, services: ServicesDep, key: WebhookManager) -> None:
    """Removes the endpoint with its log and its waiting deliveries."""
    services.webhooks.remove(endpoint_id)


@router.post("/webhooks/{endpoint_id}/rotate", responses=_NO_ENDPOINT, summary="Change the secret")
def post_rotation(endpoint_id: UUID, services: ServicesDep, key: WebhookManager) -> EndpointOut:
    """From now on the new secret and the old one both sign, until the next rotation."""
    return show_endpoint(services.webhooks.rotate(endpoint_id), with_secret=True)


@router.get(
    "/webhooks/{endpoint_id}/deliveries",
    responses=_NO_ENDPOINT,
    summary="Read what was sent, the newest first",
)
def get_deliveries(
    endpoint_id: UUID,
    services: ServicesDep,
    key: WebhookManager,
    cursor: Annotated[UUID | None, Query(description="`next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> DeliveryPage:
    found = services.webhooks.deliveries(endpoint_id, limit=limit + 1, before=cursor)
    shown = found[:limit]
    return DeliveryPage(
        deliveries=[DeliveryOut.model_validate(delivery) for delivery in shown],
        next_cursor=shown[-1].id if len(found) > limit else None,
    )


@router.post(
    "/deliveries/{delivery_id}/resend",
    status_code=202,
    responses=documented({404: "No delivery has this id"}),
    summary="Send once more",
)
def post_resend(delivery_id: UUID, services: ServicesDep, key: WebhookManager) -> DeliveryOut:
    """Under the same webhook-id, with all tries again. A delivery that was not tried yet does not change."""
    return DeliveryOut.model_validate(services.webhooks.resend(delivery_id))


@told.post("case.analyzed", status_code=204, summary="A case is ready for a person")
def case_analyzed(body: WebhookOut) -> None:
    """With a verdict, or with a refusal that says why there is none."""


@told.post("case.decided", status_code=204, summary="A person decided")
def case_decided(body: WebhookOut) -> None:
    """Sent when the decision can no longer be undone."""


@told.post("case.appealed", status_code=204, summary="A decision was appealed against")
def case_appealed(body: WebhookOut) -> None:
    """The case is ready again, for another person."""


@told.post("case.withdrawn", status_code=204, summary="A platform took an image back")
def case_withdrawn(body: WebhookOut) -> None:
    """The case ended without a decision. For other systems that know of it."""


def show_endpoint(endpoint: Endpoint, *, with_secret: bool = False) -> EndpointOut:
    shown = EndpointOut.model_validate(endpoint)
    return shown.model_copy(update={"secret": endpoint.secrets[0]}) if with_secret else shown
