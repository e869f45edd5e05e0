"""From a store's notification to a case: by the queue of SQS, and by a webhook."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest
from fastapi.testclient import TestClient
from moto.server import ThreadedMotoServer
from sqlalchemy import text

from moderation.cli import bridge
from moderation.cli.bridge import PAUSE_AT_MOST, carry
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


def a_problem(status: int, code: str) -> httpx.Response:
    body = {"status": status, "code": code, "detail": "in words"}
    return httpx.Response(status, json=body, headers={"Retry-After": "3600"})


class Impatient(threading.Event):
    """Waits for nothing, knows how long it was asked to, and is set at the `last` of so many pauses."""

    def __init__(self, last: int = 100) -> None:
        super().__init__()
        self._last = last
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout or 0.0)
        if len(self.pauses) == self._last:
            self.set()
        return self.is_set()


class Away:
    """The API, which for some calls gives another answer, or none. It sets `stop` with the `last` case it opens."""

    def __init__(
        self,
        api: TestClient,
        answer: httpx.Response | None,
        *,
        calls: int,
        stop: threading.Event,
        last: int = 0,
    ) -> None:
        self._api, self._answer, self._calls, self._stop, self._last = api, answer, calls, stop, last
        key = str(api.headers["Authorization"]).split()[1]
        http = httpx.Client(transport=httpx.MockTransport(self._handle))
        self.client = BonaFide("http://testserver", key, http=http, tries=1)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self._calls -= 1
        if self._calls >= 0:
            if self._answer is None:
                raise httpx.ConnectError("nobody is there")
            return self._answer
        sent: dict[str, Any] = {"content": request.content, "headers": dict(request.headers)}
        reply = self._api.request(request.method, request.url.path, **sent)
        self._last -= 1
        if self._last == 0:
            self._stop.set()
        return httpx.Response(reply.status_code, content=reply.content)


NOT_NOW = [
    pytest.param(None, id="unreachable"),
    pytest.param(a_problem(429, "too_many_cases"), id="too many for now"),
    pytest.param(a_problem(503, "database_unavailable"), id="Postgres is away"),
    pytest.param(a_problem(401, "unauthenticated"), id="a revoked key"),
    pytest.param(a_problem(403, "scope_missing"), id="another scope"),
    pytest.param(httpx.Response(404, text="a proxy's own page"), id="something in between"),
]


@pytest.mark.parametrize("answer", NOT_NOW)
def test_while_the_api_takes_nothing_no_more_is_received_and_what_was_goes_back_at_the_end(
    sqs: Any, queue: str, api: TestClient, answer: httpx.Response | None
) -> None:
    for number in range(12):
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(told(f"{number}.jpg")))
    stop = Impatient(last=20)

    carry(sqs, queue, Away(api, answer, calls=100, stop=stop).client, stop)

    assert sorted(receipts(sqs, queue) + receipts(sqs, queue)) == [1, 1] + [2] * 10
    assert max(stop.pauses) == PAUSE_AT_MOST


@pytest.mark.parametrize("answer", NOT_NOW)
def test_once_the_api_takes_something_again_what_was_held_is_carried(
    sqs: Any, queue: str, api: TestClient, database: Database, answer: httpx.Response | None
) -> None:
    for key in ("a.jpg", "b.jpg"):
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(told(key)))
    stop = Impatient()

    carry(sqs, queue, Away(api, answer, calls=7, stop=stop, last=2).client, stop)

    assert opened(database) == [("a.jpg", "v1"), ("b.jpg", "v1")]
    assert left(sqs, queue) == 0
    assert len(stop.pauses) == 7


def test_what_is_held_for_long_is_hidden_anew(
    sqs: Any, queue: str, api: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a.jpg", "b.jpg"):
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(told(key)))
    monkeypatch.setattr(bridge, "HIDE_AGAIN_SECONDS", 0.0)  # every pause is long
    stop, asked = Impatient(last=3), list[list[int]]()
    call = "before-parameter-build.sqs.ChangeMessageVisibilityBatch"

    def listen(params: dict[str, Any], **_: object) -> None:
        asked.append([entry["VisibilityTimeout"] for entry in params["Entries"]])

    sqs.meta.events.register(call, listen)
    carry(sqs, queue, Away(api, None, calls=100, stop=stop).client, stop)
    sqs.meta.events.unregister(call, listen)

    assert asked == [[bridge.HIDDEN_SECONDS] * 2] * 3 + [[0, 0]]


def test_who_is_told_to_stop_does_not_wait_for_the_api(sqs: Any, queue: str, api: TestClient) -> None:
    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(told("a.jpg")))
    stop = threading.Event()

    class Stopping(Away):
        def _handle(self, request: httpx.Request) -> httpx.Response:
            stop.set()
            return super()._handle(request)

    carry(sqs, queue, Stopping(api, a_problem(429, "too_many_cases"), calls=1, stop=stop).client, stop)

    assert receipts(sqs, queue) == [2]


def test_an_object_that_is_a_fault_of_ours_every_time_does_not_keep_the_others(
    sqs: Any, queue: str, api: TestClient, database: Database
) -> None:
    for key in ("fault.jpg", "good.jpg"):
        sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(told(key)))
    stop = Impatient()

    class Faulty(Away):
        def _handle(self, request: httpx.Request) -> httpx.Response:
            if b"fault.jpg" in request.content:
                return a_problem(500, "internal")
            return super()._handle(request)

    carry(sqs, queue, Faulty(api, None, calls=0, stop=stop, last=1).client, stop)

    assert opened(database) == [("good.jpg", "v1")]
    assert left(sqs, queue) == 1


def receipts(sqs: Any, queue: str) -> list[int]:
    """How often each message was received, this time included, of those that nobody hides."""
    found = sqs.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, AttributeNames=["ApproximateReceiveCount"]
    )
    return [int(message["Attributes"]["ApproximateReceiveCount"]) for message in found.get("Messages", [])]


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
