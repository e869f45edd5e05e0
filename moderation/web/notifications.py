"""Stores that call by themselves when an object is created: MinIO and other S3-compatible ones, and EventBridge."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import JsonValue, ValidationError

from moderation.errors import RequestRefused
from moderation.intake import Submission
from moderation.notifications import Created, created_objects
from moderation.web.access import OnlyKnownParameters, Submitter
from moderation.web.problems import RESPONSES, TOO_MANY
from moderation.web.services import ServicesDep
from moderation.wire import Answer, CaseIn, ImageIn

router = APIRouter(prefix="/v1", responses=RESPONSES, dependencies=[OnlyKnownParameters])


class NotificationOut(Answer):
    #: Cases that this call opened.
    opened: int
    #: Objects whose case was open already.
    repeated: int
    #: Why the others have none: stable codes.
    refused: Sequence[str]


@router.post(
    "/notifications/s3",
    response_model=NotificationOut,
    responses=TOO_MANY,
    summary="Tell of objects that were created",
)
def post_notification(
    body: Annotated[dict[str, JsonValue], Body(description="As the store writes it")],
    services: ServicesDep,
    key: Submitter,
) -> NotificationOut:
    """Open a case for every object that was created. Safe to repeat: the same object and version is the same case.

    An object that is refused is answered with success all the same, because a store would repeat it for ever.
    """
    objects = created_objects(body)
    at_most = services.settings.batch_items_at_most
    if len(objects) > at_most:
        raise RequestRefused(f"{len(objects)} objects in one call; at most {at_most}")
    told = [_submission(created, key.name) for created in objects]
    submissions = [submission for submission in told if submission is not None]
    services.rates.take(key.name, len(submissions))
    outcomes = services.intake.receive_many(submissions, actor=f"platform:{key.name}") if submissions else []
    accepted = [outcome for outcome in outcomes if not isinstance(outcome, RequestRefused)]
    refused = [outcome.code for outcome in outcomes if isinstance(outcome, RequestRefused)]
    return NotificationOut(
        opened=sum(outcome.created for outcome in accepted),
        repeated=sum(not outcome.created for outcome in accepted),
        refused=[*refused, *["invalid_request"] * told.count(None)],
    )


def _submission(created: Created, source: str) -> Submission | None:
    """The same as if the platform had sent it; None when the object has a name that no case can have."""
    image = created.image
    try:
        named = ImageIn(bucket=image.bucket, key=image.key, version_id=image.version_id)
        flagged = CaseIn.model_validate({"image": named, "external_id": created.external_id})
    except ValidationError:
        return None
    return Submission(flagged.flag(source))
