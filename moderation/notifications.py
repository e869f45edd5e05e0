"""Reads the notifications of S3 stores about new objects, in the forms that are in use. It connects to nothing.

The forms: Amazon S3 to a queue (`Records`); MinIO and other compatible stores by webhook (the same with a little around
it); Amazon S3 by EventBridge (`detail-type`); each of these wrapped by SNS (`Type: Notification`); Cloudflare R2
(`action`).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from moderation.cases import ImageRef
from moderation.errors import NotificationUnreadable

#: Nested envelopes that are opened. SNS around EventBridge around S3 is two.
DEPTH_AT_MOST = 3
#: How Ceph's records name their source.
CEPH = "ceph:s3"
#: Actions that create an object in Cloudflare R2.
R2_CREATES = {"PutObject", "CopyObject", "CompleteMultipartUpload"}


@dataclass(frozen=True)
class Created:
    """An object that was created."""

    image: ImageRef
    #: The same for the same object and version, so that a repeated notification is the same case.
    external_id: str


def created_objects(body: Any) -> Sequence[Created]:
    """The objects that a notification, parsed from JSON, says were created.

    Empty for a test message and for other events. Raise NotificationUnreadable.
    """
    try:
        return list(_opened(body, DEPTH_AT_MOST))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotificationUnreadable(f"this is no notification of an S3 store: {error!r}") from error


def _opened(body: Any, depth: int) -> Iterator[Created]:
    if depth == 0:
        raise ValueError("envelopes within envelopes")
    match body:
        case {"Type": "Notification", "Message": str(inner)}:
            yield from _opened(json.loads(inner), depth - 1)
        case {"Records": list(records)}:
            for record in records:
                # Amazon says "ObjectCreated:Put", MinIO "s3:ObjectCreated:Put".
                if "ObjectCreated:" in record["eventName"]:
                    # Only in this form are keys URL-encoded, and Ceph does not encode them.
                    thing = record["s3"]["object"]
                    raw = record.get("eventSource") == CEPH
                    key = thing["key"] if raw else unquote_plus(thing["key"], errors="strict")
                    yield _created(record["s3"]["bucket"]["name"], key, thing.get("versionId"), thing)
        case {"detail-type": "Object Created", "detail": dict(detail)}:
            thing = detail["object"]
            yield _created(detail["bucket"]["name"], thing["key"], thing.get("version-id"), thing)
        case {"action": str(action), "bucket": str(bucket), "object": dict(thing)}:
            if action in R2_CREATES:
                # R2 has no versions and gives no order: tag and time distinguish two objects of one key.
                told_apart = {"sequencer": f"{thing.get('eTag', '')} {body.get('eventTime', '')}"}
                yield _created(bucket, thing["key"], None, told_apart)
        # S3's test message at set-up, and any other event on the same bus.
        case {"Event": "s3:TestEvent"} | {"detail-type": _}:
            return
        case _:
            raise ValueError("neither Records nor detail-type nor action")


def _created(bucket: str, key: str, version_id: str | None, thing: dict[str, Any]) -> Created:
    if not key or not bucket:
        raise ValueError("an object without a name")
    # A bucket without versions says "null" or nothing. Then the order of events distinguishes two objects of one key;
    # without an order, their tags do.
    version = None if version_id in (None, "", "null") else version_id
    told_apart = version or thing.get("sequencer") or thing.get("eTag") or thing.get("etag") or ""
    return Created(ImageRef(bucket, key, version), _external_id(bucket, key, told_apart))


def _external_id(bucket: str, key: str, told_apart: str) -> str:
    """Short enough for an external id: at most 200 characters, whatever the key is."""
    return f"s3:{hashlib.sha256(json.dumps([bucket, key, told_apart]).encode()).hexdigest()}"
