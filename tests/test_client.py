"""The client against a real HTTP server whose answers the test scripts."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from moderation.cases import ImageRef
from moderation.client import ApiProblem, ApiUnreachable, BonaFide
from tests.builders import new_id

IMAGE = ImageRef("flagged", "a.jpg")
ASKED = {
    **dict.fromkeys(("answer", "failure", "bundle", "fingerprint", "seconds", "answered_at")),
    "id": str(new_id()),
    "question": "Are the eyes consistent?",
    "created_at": "2026-11-23T12:00:00Z",
}
#: No answer at all: the connection ends.
LOST: tuple[int, dict[str, Any], dict[str, str]] = (0, {}, {})
ACCEPTED = {"id": str(new_id()), "state": "waiting", "links": {"self": "/v1/cases/1"}}


class Scripted(ThreadingHTTPServer):
    """Answers with what is queued, in order; the last answer again and again."""

    answers: list[tuple[int, dict[str, Any], dict[str, str]]]
    requests: list[tuple[str, dict[str, str], Any]]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(json.loads(body))

    def do_PUT(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: Any) -> None:
        script = cast("Scripted", self.server)
        script.requests.append((self.path, dict(self.headers), body))
        status, answer, headers = script.answers.pop(0) if len(script.answers) > 1 else script.answers[0]
        if status == 0:
            self.close_connection = True
            return
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Say nothing: the tests' output is for failures."""


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted(("127.0.0.1", 0), _Handler)
    made.answers, made.requests = [], []
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def client(server: Scripted) -> Iterator[BonaFide]:
    with BonaFide(f"http://127.0.0.1:{server.server_port}", "bf_key", tries=3) as made:
        yield made


def _problem(status: int, code: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    body = {"title": code, "status": status, "code": code, "detail": "in words", "request_id": "r"}
    return status, body, {"Retry-After": "0"}


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_passes_is_tried_again_under_the_same_key(
    server: Scripted, client: BonaFide, status: int
) -> None:
    server.answers = [_problem(status, "unavailable"), _problem(status, "unavailable"), (202, ACCEPTED, {})]

    assert str(client.submit(IMAGE).id) == ACCEPTED["id"]

    keys = {headers["Idempotency-Key"] for _, headers, _ in server.requests}
    assert (len(server.requests), len(keys)) == (3, 1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 500])
def test_what_is_final_is_not_tried_again(server: Scripted, client: BonaFide, status: int) -> None:
    server.answers = [_problem(status, "final")]

    with pytest.raises(ApiProblem) as refused:
        client.submit(IMAGE)

    assert (refused.value.status, refused.value.code, refused.value.request_id) == (status, "final", "r")
    assert len(server.requests) == 1


def test_a_lost_answer_is_asked_for_again_under_the_same_key(server: Scripted, client: BonaFide) -> None:
    server.answers = [LOST, (202, ACCEPTED, {})]

    assert str(client.submit(IMAGE).id) == ACCEPTED["id"]

    assert len({headers["Idempotency-Key"] for _, headers, _ in server.requests}) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(LOST, id="a lost answer"),
        *(pytest.param(_problem(status, "unavailable"), id=str(status)) for status in (502, 503, 504)),
    ],
)
def test_a_question_that_may_have_arrived_is_not_asked_again(
    server: Scripted, client: BonaFide, answer: tuple[int, dict[str, Any], dict[str, str]]
) -> None:
    server.answers = [answer]

    with pytest.raises(ApiProblem):
        client.ask(new_id(), "Are the eyes consistent?")

    assert len(server.requests) == 1


def test_a_question_that_was_put_off_is_asked_again(server: Scripted, client: BonaFide) -> None:
    server.answers = [_problem(429, "too_many_questions"), (202, ASKED, {})]

    assert str(client.ask(new_id(), "Are the eyes consistent?").id) == ASKED["id"]

    assert len(server.requests) == 2


def test_an_upload_that_the_store_refuses_is_said_so(server: Scripted, client: BonaFide) -> None:
    permission = {
        "url": f"http://127.0.0.1:{server.server_port}/flagged/a.jpg",
        "headers": {"Content-Type": "image/jpeg"},
        "image": {"bucket": "flagged", "key": "a.jpg"},
        "expires_at": "2026-11-23T12:00:00Z",
    }
    server.answers = [(201, permission, {}), (403, {"Error": "AccessDenied"}, {})]

    with pytest.raises(ApiProblem, match="storage refused") as refused:
        client.upload(b"...")

    assert (refused.value.status, refused.value.code) == (403, "upload_refused")


def test_who_is_to_wait_for_long_is_told_at_once(server: Scripted, client: BonaFide) -> None:
    status, body, _ = _problem(429, "too_many_cases")
    server.answers = [(status, body, {"Retry-After": "3600"})]

    with pytest.raises(ApiProblem) as refused:
        client.submit(IMAGE)

    assert (refused.value.code, refused.value.retry_after) == ("too_many_cases", 3600)
    assert len(server.requests) == 1


def test_tries_end(server: Scripted, client: BonaFide) -> None:
    server.answers = [_problem(503, "database_unavailable")]

    with pytest.raises(ApiProblem, match="in words"):
        client.submit(IMAGE)

    assert len(server.requests) == 3


def test_an_answer_that_is_no_problem_document_is_still_a_problem(server: Scripted, client: BonaFide) -> None:
    server.answers = [(404, {"message": "a proxy's own page"}, {})]

    with pytest.raises(ApiProblem) as refused:
        client.submit(IMAGE)

    assert refused.value.code == "http_error"


def test_a_server_that_is_not_there_is_said_so() -> None:
    with BonaFide("http://127.0.0.1:9", "bf_key", tries=2) as nowhere, pytest.raises(ApiUnreachable):
        nowhere.submit(IMAGE)


def test_two_submissions_have_two_keys_and_carry_the_callers_secret(
    server: Scripted, client: BonaFide
) -> None:
    server.answers = [(202, ACCEPTED, {})]

    client.submit(IMAGE)
    client.submit(IMAGE, idempotency_key="mine")

    first, second = (headers for _, headers, _ in server.requests)
    assert first["Idempotency-Key"] != second["Idempotency-Key"] == "mine"
    assert first["Authorization"] == "Bearer bf_key"


def test_many_are_sent_a_thousand_at_a_time(server: Scripted, client: BonaFide) -> None:
    outcome = {"status": 202, "case": ACCEPTED}
    whole = {"accepted": 1, "repeated": 0, "refused": 0}
    server.answers = [(207, {**whole, "outcomes": [outcome] * n}, {}) for n in (1000, 1000, 500)]

    outcomes = list(client.submit_many({"image": IMAGE, "external_id": str(n)} for n in range(2500)))

    assert len(outcomes) == 2500
    assert [len(body["cases"]) for _, _, body in server.requests] == [1000, 1000, 500]
