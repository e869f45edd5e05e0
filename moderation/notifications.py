"""What an S3 store says when an object is created, in the shapes that are in use. Nothing here talks to anybody.

Amazon S3 to a queue (`Records`), MinIO and other S3-compatible stores by webhook (the same, with a little around it),
Amazon S3 by EventBridge (`detail-type`), each of them wrapped by SNS (`Type: Notification`), and Cloudflare R2
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

#: Envelopes within envelopes that are opened. SNS in front of EventBridge in front of S3 is two.
DEPTH_AT_MOST = 3
#: How Ceph's records name their source.
CEPH = "ceph:s3"
#: What creates an object in Cloudflare R2.
R2_CREATES = {"PutObject", "CopyObject", "CompleteMultipartUpload"}


@dataclass(frozen=True)
class Created:
    """An object that was created."""

    image: ImageRef
    #: The same for the same object and version, however often the store repeats itself: a repetition is the same case.
    external_id: str


def created_objects(body: Any) -> Sequence[Created]:
    """The objects that a notification, parsed from JSON, says were created.

    None for a test message, or when something else happened. Raise NotificationUnreadable.
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
                    # In this shape, and only in this one, keys are URL-encoded; but not by Ceph.
                    thing = record["s3"]["object"]
                    raw = record.get("eventSource") == CEPH
                    key = thing["key"] if raw else unquote_plus(thing["key"], errors="strict")
                    yield _created(record["s3"]["bucket"]["name"], key, thing.get("versionId"), thing)
        case {"detail-type": "Object Created", "detail": dict(detail)}:
            thing = detail["object"]
            yield _created(detail["bucket"]["name"], thing["key"], thing.get("version-id"), thing)
        case {"action": str(action), "bucket": str(bucket), "object": dict(thing)}:
            if action in R2_CREATES:
                # R2 has no versions and says no order: the tag and the time tell two objects of one key apart.
                told_apart = {"sequencer": f"{thing.get('eTag', '')} {body.get('eventTime', '')}"}
                yield _created(bucket, thing["key"], None, told_apart)
        # What S3 sends when the notification is set up, and any other event on the same bus.
        case {"Event": "s3:TestEvent"} | {"detail-type": _}:
            return
        case _:
            raise ValueError("neither Records nor detail-type nor action")


def _created(bucket: str, key: str, version_id: str | None, thing: dict[str, Any]) -> Created:
    if not key or not bucket:
        raise ValueError("an object without a name")
    # A bucket without versions says "null" or nothing. Then only the order of its events tells two objects of one key
    # apart, or, where even that is missing, their bytes' tag.
    version = None if version_id in (None, "", "null") else version_id
    told_apart = version or thing.get("sequencer") or thing.get("eTag") or thing.get("etag") or ""
    return Created(ImageRef(bucket, key, version), _external_id(bucket, key, told_apart))


def _external_id(bucket: str, key: str, told_apart: str) -> str:
    """Short enough for an external id: at most 200 characters, whatever the key is."""
    return f"s3:{hashlib.sha256(json.dumps([bucket, key, told_apart]).encode()).hexdigest()}"
