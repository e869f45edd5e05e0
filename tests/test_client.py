"""The client against a real HTTP server whose answers the test scripts."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from moderation.cases import ImageRef
from moderation.client import ApiProblem, ApiUnreachable, BonaFide
from moderation.wire import BatchOutcome
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
    def do_GET(self) -> None:
        self._answer(None)

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


# --- many at once


def _outcomes(number: int) -> tuple[int, dict[str, Any], dict[str, str]]:
    whole = {"accepted": number, "repeated": 0, "refused": 0}
    return 207, {**whole, "outcomes": [{"status": 202, "case": ACCEPTED}] * number}, {}


def _codes(outcomes: Iterator[BatchOutcome]) -> list[str]:
    return ["opened" if outcome.problem is None else outcome.problem.code for outcome in outcomes]


def test_many_are_sent_a_thousand_at_a_time(server: Scripted, client: BonaFide) -> None:
    server.answers = [_outcomes(n) for n in (1000, 1000, 500)]

    outcomes = list(client.submit_many({"image": IMAGE, "external_id": str(n)} for n in range(2500)))

    assert len(outcomes) == 2500
    assert [len(body["cases"]) for _, _, body in server.requests] == [1000, 1000, 500]


def test_many_are_sent_also_when_nobody_reads_the_outcomes(server: Scripted, client: BonaFide) -> None:
    server.answers = [_outcomes(1)]

    client.submit_many([{"image": IMAGE}])

    assert len(server.requests) == 1


def test_an_image_may_be_named_by_its_address(server: Scripted, client: BonaFide) -> None:
    server.answers = [_outcomes(2), (202, ACCEPTED, {})]

    client.submit_many(
        [{"image": "s3://flagged/2026/a.jpg"}, {"image": {"bucket": "flagged", "key": "b.jpg"}}]
    )
    client.submit("s3://flagged/2026/a.jpg")

    (_, _, many), (_, _, one) = server.requests
    assert [item["image"]["key"] for item in many["cases"]] == ["2026/a.jpg", "b.jpg"]
    assert one["image"] == {"bucket": "flagged", "key": "2026/a.jpg"}


def test_an_item_that_is_no_flag_is_left_to_the_api_and_harms_no_other(
    server: Scripted, client: BonaFide
) -> None:
    items: list[Any] = [{"external_id": "1"}, {"image": "a.jpg"}, {"image": None}, "a.jpg", {"image": IMAGE}]
    server.answers = [_outcomes(5)]

    client.submit_many(items)

    ((_, _, body),) = server.requests
    good = {"image": {"bucket": "flagged", "key": "a.jpg"}}
    assert body["cases"] == [{"external_id": "1"}, {"image": "a.jpg"}, {}, "a.jpg", good]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"image": IMAGE, "context": {"at": datetime(2026, 11, 30)}}, id="a time"),  # noqa: DTZ001  any
        pytest.param({"image": IMAGE, "context": {"score": float("nan")}}, id="not a number"),
        pytest.param({"image": IMAGE, "reason": "\ud800"}, id="half of a character"),
        pytest.param({"image": b"..."}, id="bytes"),
    ],
)
def test_an_item_that_cannot_be_sent_is_refused_in_its_place(
    server: Scripted, client: BonaFide, odd: dict[str, Any]
) -> None:
    server.answers = [_outcomes(2)]

    codes = _codes(client.submit_many([{"image": IMAGE}, odd, {"image": IMAGE}]))

    assert codes == ["opened", "invalid_request", "opened"]


def test_when_no_item_can_be_sent_nothing_is(server: Scripted, client: BonaFide) -> None:
    assert _codes(client.submit_many([{"image": b"..."}])) == ["invalid_request"]

    assert server.requests == []


def test_whoever_is_refused_in_the_middle_keeps_the_outcomes_before(
    server: Scripted, client: BonaFide
) -> None:
    server.answers = [_outcomes(1000), _problem(403, "scope_missing")]

    with pytest.raises(ApiProblem) as refused:
        client.submit_many({"image": IMAGE} for _ in range(1500))

    assert (refused.value.code, len(refused.value.outcomes)) == ("scope_missing", 1000)


# --- what can be none


@pytest.mark.parametrize("named", ["", "../queue/stats", "photo-1", "01a20606-fd51-797f-9c50-1f967a548ee7/x"])
@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda client, named: client.case(named), "case_not_found"),
        (lambda client, named: client.appeal(named, "why"), "case_not_found"),
        (lambda client, named: client.remove_webhook(named), "endpoint_not_found"),
        (lambda client, named: client.resend(named), "delivery_not_found"),
    ],
    ids=["case", "appeal", "webhook", "delivery"],
)
def test_what_is_no_id_names_nothing(
    server: Scripted, client: BonaFide, call: Callable[[BonaFide, str], object], code: str, named: str
) -> None:
    with pytest.raises(ApiProblem) as refused:
        call(client, named)

    assert (refused.value.status, refused.value.code) == (404, code)
    assert server.requests == []


@pytest.mark.parametrize(
    ("url", "key"),
    [
        pytest.param("127.0.0.1:8000", "bf_key", id="no scheme"),
        pytest.param("localhost", "bf_key", id="only a host"),
        pytest.param("ftp://example.org", "bf_key", id="another scheme"),
        pytest.param("https://", "bf_key", id="no host"),
        pytest.param("http://example.org:port", "bf_key", id="no port"),
        pytest.param("", "bf_key", id="nothing"),
        pytest.param("http://127.0.0.1:8000", "", id="no key"),
        pytest.param("http://127.0.0.1:8000", "bf_kéy", id="a key outside ASCII"),
        pytest.param("http://127.0.0.1:8000", "bf_key\n", id="a key with a line break"),
    ],
)
def test_an_address_or_a_key_that_can_be_none_is_refused_when_the_client_is_made(url: str, key: str) -> None:
    with pytest.raises(ValueError, match=r"URL of an API|the API key") as refused:
        BonaFide(url, key)

    assert not key or key not in str(refused.value)


@pytest.mark.parametrize(
    ("moment", "sent"),
    [
        pytest.param("2026-11-30T00:00Z", "2026-11-30T00:00Z", id="a text with a zone"),
        pytest.param(datetime(2026, 11, 30, tzinfo=UTC), "2026-11-30T00:00Z", id="a time with a zone"),
        pytest.param("2026-11-30", "2026-11-30T00:00", id="a day as text"),
        pytest.param(date(2026, 11, 30), "2026-11-30T00:00", id="a day"),
    ],
)
def test_a_time_may_be_a_text_or_a_day(
    server: Scripted, client: BonaFide, moment: date | str, sent: str
) -> None:
    server.answers = [(200, {"cases": [], "next_cursor": None}, {})]

    assert list(client.cases(since=moment)) == []

    ((path, _, _),) = server.requests
    (since,) = parse_qs(urlsplit(path).query)["since"]
    # Without a zone it is local time.
    assert datetime.fromisoformat(since) == datetime.fromisoformat(sent).astimezone()


def test_a_text_that_is_no_time_is_refused(client: BonaFide) -> None:
    with pytest.raises(ValueError, match="yesterday"):
        next(client.cases(since="yesterday"))
