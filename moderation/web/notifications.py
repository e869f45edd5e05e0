"""Calls by stores when an object is created: MinIO and other S3-compatible stores, and EventBridge."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import JsonValue, ValidationError

from moderation.database.cases import Opening
from moderation.errors import RequestRefused
from moderation.notifications import Created, created_objects
from moderation.web.callers import OnlyJson, OnlyKnownParameters, Submitter
from moderation.web.problems import RESPONSES, TOO_MANY
from moderation.web.services import ServicesDep
from moderation.wire import CaseIn, ImageIn, Response

router = APIRouter(prefix="/v1", responses=RESPONSES, dependencies=[OnlyKnownParameters, OnlyJson])


class NotificationOut(Response):
    #: Cases that this call opened.
    opened: int
    #: Objects whose case already existed.
    repeated: int
    #: Why the other objects have no case: stable codes.
    refused: Sequence[str]


@router.post("/notifications/s3", responses=TOO_MANY, summary="Tell of objects that were created")
def post_notification(
    body: Annotated[dict[str, JsonValue], Body(description="As the store writes it")],
    services: ServicesDep,
    key: Submitter,
) -> NotificationOut:
    """Open a case for every new object. Safe to repeat: the same object and version is the same case.

    A refused object is answered with success too, because a store would repeat it for ever.
    """
    objects = created_objects(body)
    at_most = services.settings.batch_items_at_most
    if len(objects) > at_most:
        raise RequestRefused(f"{len(objects)} objects in one call; at most {at_most}")
    told = [_opening(created, key.name) for created in objects]
    openings = [opening for opening in told if opening is not None]
    services.rates.take(key.name, len(openings))
    outcomes = services.intake.receive_many(openings, actor=f"platform:{key.name}") if openings else []
    accepted = [outcome for outcome in outcomes if not isinstance(outcome, RequestRefused)]
    refused = [outcome.code for outcome in outcomes if isinstance(outcome, RequestRefused)]
    return NotificationOut(
        opened=sum(outcome.created for outcome in accepted),
        repeated=sum(not outcome.created for outcome in accepted),
        refused=[*refused, *["invalid_request"] * told.count(None)],
    )


def _opening(created: Created, source: str) -> Opening | None:
    """What the platform would have sent. None: no case can have the object's name."""
    image = created.image
    try:
        named = ImageIn(bucket=image.bucket, key=image.key, version_id=image.version_id)
        flagged = CaseIn.model_validate({"image": named, "external_id": created.external_id})
    except ValidationError:
        return None
    return Opening(flagged.flag(source))
