"""What stores say, read without a store."""

from typing import Any

import pytest

from moderation.cases import ImageRef
from moderation.errors import NotificationUnreadable
from moderation.notifications import created_objects


def _record(key: str, *, name: str = "ObjectCreated:Put", **thing: str) -> dict[str, Any]:
    return {"eventName": name, "s3": {"bucket": {"name": "flagged"}, "object": {"key": key, **thing}}}


@pytest.mark.parametrize(
    ("body", "image"),
    [
        pytest.param(
            {"Records": [_record("a/b+c%C3%A9.jpg", versionId="v1", sequencer="00A")]},
            ImageRef("flagged", "a/b cé.jpg", "v1"),
            id="S3 to SQS: keys are URL-encoded",
        ),
        pytest.param(
            {
                "EventName": "s3:ObjectCreated:Put",
                "Key": "flagged/a.jpg",
                "Records": [
                    _record("a.jpg", name="s3:ObjectCreated:CompleteMultipartUpload", versionId="null")
                ],
            },
            ImageRef("flagged", "a.jpg", None),
            id="MinIO, from a bucket without versions",
        ),
        pytest.param(
            {
                "detail-type": "Object Created",
                "detail": {"bucket": {"name": "flagged"}, "object": {"key": "a+b.jpg", "version-id": "v2"}},
            },
            ImageRef("flagged", "a+b.jpg", "v2"),
            id="EventBridge: keys are as they are",
        ),
        pytest.param(
            {
                "Records": [
                    {**_record("a+b%20c é.jpg", name="s3:ObjectCreated:Put"), "eventSource": "ceph:s3"}
                ]
            },
            ImageRef("flagged", "a+b%20c é.jpg", None),
            id="Ceph: keys are as they are",
        ),
        pytest.param(
            {"Records": [{**_record("a%2Fb+c.jpg", versionId="1"), "eventSource": "minio:s3"}]},
            ImageRef("flagged", "a/b c.jpg", "1"),
            id="MinIO: slashes are encoded too",
        ),
        pytest.param(
            {
                "account": "3f4b7e3dcab231cbfdaa90a6a28bd548",
                "action": "CompleteMultipartUpload",
                "bucket": "flagged",
                "object": {"key": "a+b%20c.jpg", "size": 65536, "eTag": "c846ff7a18f28c2e262116d6e8719ef0"},
                "eventTime": "2026-05-24T19:36:44.379Z",
            },
            ImageRef("flagged", "a+b%20c.jpg", None),
            id="R2: keys are as they are",
        ),
        pytest.param(
            {
                "Type": "Notification",
                "Message": '{"Records":[{"eventName":"ObjectCreated:Post","s3":{"bucket":{"name":"flagged"},'
                '"object":{"key":"x.png"}}}]}',
            },
            ImageRef("flagged", "x.png", None),
            id="through SNS",
        ),
    ],
)
def test_an_object_that_was_created_is_found_in_every_shape(body: dict[str, Any], image: ImageRef) -> None:
    (created,) = created_objects(body)

    assert created.image == image


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "flagged"}, id="test message"
        ),
        pytest.param({"Records": [_record("a.jpg", name="ObjectRemoved:Delete")]}, id="removed"),
        pytest.param({"detail-type": "Object Deleted", "detail": {}}, id="another event on the bus"),
        pytest.param(
            {"account": "3f4b", "action": "DeleteObject", "bucket": "flagged", "object": {"key": "a.jpg"}},
            id="removed from R2",
        ),
    ],
)
def test_what_creates_nothing_opens_nothing(body: dict[str, Any]) -> None:
    assert created_objects(body) == []


def test_a_repetition_has_the_same_external_id_and_another_version_another() -> None:
    first = created_objects({"Records": [_record("a.jpg", sequencer="1")]})
    again = created_objects({"Records": [_record("a.jpg", sequencer="1")]})
    newer = created_objects({"Records": [_record("a.jpg", sequencer="2")]})

    assert first == again
    assert first[0].external_id != newer[0].external_id


def test_in_r2_a_later_object_of_the_same_key_has_another_external_id() -> None:
    def told(**others: Any) -> str:
        body = {
            "action": "PutObject",
            "bucket": "flagged",
            "object": {"key": "a.jpg", "eTag": "1"},
            "eventTime": "1",
        }
        return created_objects(body | others)[0].external_id

    assert told() == told()
    assert len({told(), told(eventTime="2"), told(object={"key": "a.jpg", "eTag": "2"})}) == 3


def test_records_of_several_objects_are_several_objects() -> None:
    created = created_objects({"Records": [_record("a.jpg"), _record("b.jpg")]})

    assert [one.image.key for one in created] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="nothing"),
        pytest.param([], id="a list"),
        pytest.param({"Records": [{"eventName": "ObjectCreated:Put"}]}, id="without an object"),
        pytest.param({"Records": [_record("%ff.jpg")]}, id="a key that is no text"),
        pytest.param({"Type": "Notification", "Message": "not JSON"}, id="an empty envelope"),
        pytest.param({"Type": "Notification", "Message": "[" * 100_000}, id="an envelope without a floor"),
        pytest.param({"Records": [_record("")]}, id="an object without a name"),
        pytest.param({"Records": "many"}, id="records that are none"),
        pytest.param({"action": "PutObject", "bucket": "flagged", "object": {}}, id="R2's without a key"),
    ],
)
def test_nonsense_is_refused(body: Any) -> None:
    with pytest.raises(NotificationUnreadable):
        created_objects(body)
