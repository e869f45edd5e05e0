"""From a store's notification to a case: by the queue of SQS, and by a webhook."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from fastapi.testclient import TestClient
from moto.server import ThreadedMotoServer
from sqlalchemy import text

from moderation.cli.bridge import carry
from moderation.client import BonaFide
from moderation.database.connection import Database


@pytest.fixture(scope="module")
def sqs() -> Iterator[Any]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield boto3.client(
        "sqs",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    server.stop()


@pytest.fixture
def queue(sqs: Any) -> Iterator[str]:
    url = sqs.create_queue(QueueName="uploads")["QueueUrl"]
    yield url
    sqs.delete_queue(QueueUrl=url)


@pytest.fixture
def client(api: Any) -> BonaFide:
    return BonaFide("http://testserver", api.headers["Authorization"].split()[1], http=api, tries=1)


def told(key: str, *, bucket: str = "flagged", version: str = "v1") -> dict[str, Any]:
    thing = {"key": key, "versionId": version, "sequencer": version}
    return {
        "Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": thing}}]
    }


def opened(database: Database) -> list[tuple[str, str | None]]:
    with database.transaction() as session:
        return [
            (row.key, row.version_id)
            for row in session.execute(text("SELECT key, version_id FROM cases ORDER BY key"))
        ]


def left(sqs: Any, queue: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    return sum(int(counts[name]) for name in names)


def test_every_object_gets_one_case_however_often_it_is_told(
    sqs: Any, queue: str, client: BonaFide, database: Database
) -> None:
    for key in ("a.jpg", "a.jpg", "b+1.jpg"):
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(told(key)))
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(told("a.jpg", version="v2")))
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps({"Event": "s3:TestEvent"}))

    carry(sqs, queue, client, threading.Event(), once=True)

    assert opened(database) == [("a.jpg", "v1"), ("a.jpg", "v2"), ("b 1.jpg", "v1")]
    assert left(sqs, queue) == 0


def test_what_was_not_accepted_stays_on_the_queue(
    sqs: Any, queue: str, client: BonaFide, database: Database
) -> None:
    sqs.send_message(QueueUrl=queue, MessageBody="nonsense")
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(told("a.jpg", bucket="forbidden")))
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(told("good.jpg")))

    carry(sqs, queue, client, threading.Event(), once=True)

    assert opened(database) == [("good.jpg", "v1")]
    assert left(sqs, queue) == 2


def test_while_the_api_does_not_answer_nothing_leaves_the_queue(sqs: Any, queue: str) -> None:
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(told("a.jpg")))

    with BonaFide("http://127.0.0.1:9", "bf_none", tries=1) as nobody:
        carry(sqs, queue, nobody, threading.Event(), once=True)

    assert left(sqs, queue) == 1


def test_a_webhook_opens_a_case_and_its_repetition_none(api: TestClient, database: Database) -> None:
    answers = [api.post("/v1/notifications/s3", json=told("a.jpg")).json() for _ in range(2)]

    assert answers == [
        {"opened": 1, "repeated": 0, "refused": []},
        {"opened": 0, "repeated": 1, "refused": []},
    ]
    assert opened(database) == [("a.jpg", "v1")]


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        pytest.param(told("a.jpg", bucket="forbidden"), ["bucket_not_allowed"], id="another bucket"),
        pytest.param(told("%00.jpg"), ["invalid_request"], id="a name that Postgres cannot hold"),
    ],
)
def test_a_store_is_not_made_to_repeat_what_is_refused(
    api: TestClient, body: dict[str, Any], refused: list[str]
) -> None:
    answer = api.post("/v1/notifications/s3", json=body)

    assert answer.status_code == 200
    assert answer.json()["refused"] == refused


def test_a_webhook_needs_a_key_and_sense(api: TestClient) -> None:
    assert (
        api.post("/v1/notifications/s3", json=told("a.jpg"), headers={"Authorization": ""}).status_code == 401
    )
    nonsense = api.post("/v1/notifications/s3", json={"hello": "world"})
    assert (nonsense.status_code, nonsense.json()["code"]) == (422, "notification_unreadable")
