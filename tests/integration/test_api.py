"""The HTTP interface as a platform meets it."""

import json
import re
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from structlog.testing import capture_logs

from moderation.accounts.keys import USUAL_SCOPES, add_key, revoke_key
from moderation.analysis import Basis, Technique
from moderation.archive.erasure import erase_case
from moderation.client import ApiProblem, BonaFide
from moderation.database.analyses import insert_effects, record_analysis
from moderation.database.connection import Database
from moderation.database.questions import insert_question
from moderation.database.tables import AnalysisRow
from moderation.decisions import Outcome
from moderation.local import as_role
from moderation.rollouts.rollout_rows import BundleFacts, note_bundles
from moderation.settings import Settings
from moderation.web.app import create_app
from moderation.web.sessions import COOKIE
from tests.builders import (
    a_face_analysis,
    a_verdict,
    an_analysis,
    an_artifact,
    an_effect,
    bona_fide,
    new_id,
    undecided,
    with_verdict,
)
from tests.integration.conftest import accepted, begun, enrolled, ready, refused, serving
from tests.integration.deciding import a_review, decide

BONA_FIDE, CANNOT_TELL, DEEPFAKE = Outcome.BONA_FIDE, Outcome.CANNOT_TELL, Outcome.DEEPFAKE
IMAGE = {"bucket": "flagged", "key": "a.jpg"}
#: For bodies that httpx would not write.
AS_JSON = {"Content-Type": "application/json"}


def _problem(reply: Any) -> tuple[int, str]:
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.json()
    assert body["status"] == reply.status_code
    return reply.status_code, body["code"]


def test_a_case_is_opened_and_can_be_read(api: TestClient) -> None:
    opened = api.post(
        "/v1/cases", json={"image": IMAGE, "external_id": "1", "context": {"user": "u"}, "priority": 7}
    )

    assert opened.status_code == 202
    assert opened.headers["location"] == opened.json()["links"]["self"]
    case = api.get(opened.json()["links"]["self"]).json()
    assert case["state"] == "waiting"
    assert (case["source"], case["external_id"], case["context"], case["priority"]) == (
        "testers",
        "1",
        {"user": "u"},
        7,
    )
    assert case["verdict"] is None


def test_a_repeated_request_answers_200_and_another_body_409(api: TestClient) -> None:
    headers = {"Idempotency-Key": "k"}
    first = api.post("/v1/cases", json={"image": IMAGE}, headers=headers)
    again = api.post("/v1/cases", json={"image": IMAGE}, headers=headers)
    other = api.post("/v1/cases", json={"image": IMAGE, "reason": "else"}, headers=headers)

    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    assert _problem(other) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        pytest.param({}, "/image", id="no image"),
        pytest.param({"image": {"bucket": "flagged"}}, "/image/key", id="no key"),
        pytest.param({"image": IMAGE, "priority": 101}, "/priority", id="priority out of range"),
        pytest.param({"image": IMAGE, "url": "http://x"}, "/url", id="a field we do not know"),
        pytest.param({"image": IMAGE, "source": "a\x00b"}, "/source", id="a NUL"),
        pytest.param({"image": IMAGE, "context": {"x": "y" * 5000}}, "/context", id="a context too large"),
        pytest.param({"image": IMAGE, "context": {"x": "\x00"}}, "/context", id="a NUL in the context"),
        pytest.param(
            {"image": IMAGE, "context": {"x": ["\x00"]}}, "/context", id="a NUL deep in the context"
        ),
        pytest.param({"image": IMAGE, "context": {"\x00": 1}}, "/context", id="a NUL in a name"),
        pytest.param({"image": IMAGE, "context": {"x": float("nan")}}, "/context", id="NaN"),
        pytest.param({"image": IMAGE, "context": {"x": [float("inf")]}}, "/context", id="infinity"),
        pytest.param({"image": IMAGE, "context": {"x": "\ud800"}}, "/context", id="half a pair"),
        pytest.param({"image": IMAGE, "context": {"\udfff": 1}}, "/context", id="half a pair in a name"),
        pytest.param({"image": IMAGE, "reason": "\ud800"}, "/reason", id="half a pair as the reason"),
        pytest.param({"image": IMAGE, "external_id": "\ud800"}, "/external_id", id="half a pair as an id"),
        pytest.param({"image": {**IMAGE, "key": "\ud800"}}, "/image/key", id="half a pair as a key"),
        pytest.param([], "", id="not an object"),
    ],
)
def test_a_request_that_cannot_be_read_says_where(api: TestClient, body: object, pointer: str) -> None:
    reply = api.post("/v1/cases", content=json.dumps(body), headers=AS_JSON)

    assert _problem(reply) == (422, "invalid_request")
    assert reply.json()["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param({"image": {"bucket": "flagged"}}, "image.key is missing", id="missing"),
        pytest.param({"image": IMAGE, "url": "http://x"}, "url is not known here", id="unknown"),
        pytest.param({"image": IMAGE, "priority": "high"}, "priority should be a whole number", id="type"),
        pytest.param(
            {"image": IMAGE, "source": "a\nb"},
            "source holds a control character, more than one line or a character that turns the direction of text",
            id="pattern",
        ),
        pytest.param({"image": IMAGE, "reason": ""}, "reason is empty", id="empty"),
        pytest.param(
            {"image": IMAGE, "context": {"x": "y" * 5000}},
            "context takes 5008 bytes as JSON; at most 4096 are kept",
            id="of our own",
        ),
        pytest.param({"image": "s3://a/b"}, "image should be an object", id="not an object"),
        pytest.param([], "the body should be an object", id="the whole"),
        pytest.param(
            {"image": {}, "url": 1},
            "image.bucket is missing; image.key is missing; url is not known here",
            id="several",
        ),
    ],
)
def test_what_is_wrong_is_said_in_the_senders_words(api: TestClient, body: object, said: str) -> None:
    assert api.post("/v1/cases", json=body).json()["detail"] == said


def test_what_is_no_json_is_said_to_be_none(api: TestClient) -> None:
    problem = api.post("/v1/cases", content='{"image": ', headers=AS_JSON).json()

    assert problem["detail"].startswith("the body is not JSON: ")
    assert problem["errors"][0]["pointer"] == ""


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xff\xd8\xff\xe0 a picture", id="bytes of a JPEG"),
        pytest.param(b'{"image": "\xe9"}', id="Latin-1"),
        pytest.param(b"[" * 100_000, id="nested without end"),
        pytest.param(b'{"priority": ' + b"9" * 5_000 + b"}", id="a number without end"),
        pytest.param(b'{"image"', id="cut off"),
    ],
)
def test_every_body_that_is_no_json_has_one_code(api: TestClient, body: bytes) -> None:
    reply = api.post("/v1/cases", content=body, headers=AS_JSON)

    assert _problem(reply) == (422, "invalid_request")
    assert reply.json()["errors"][0]["pointer"] == ""


@pytest.mark.parametrize(
    ("kind", "to_uploads"),
    [
        (None, False),
        ("application/x-www-form-urlencoded", False),
        ("text/plain; charset=utf-8", False),
        ("multipart/form-data; boundary=x", True),
        ("image/jpeg", True),
    ],
)
def test_a_body_of_another_type_is_told_what_to_send(
    api: TestClient, kind: str | None, to_uploads: bool
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}

    reply = api.post("/v1/cases", content=json.dumps({"image": IMAGE}), headers=headers)

    assert _problem(reply) == (415, "unsupported_media_type")
    assert "application/json" in reply.json()["detail"]
    assert ("/v1/uploads" in reply.json()["detail"]) is to_uploads


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
def test_json_by_another_name_is_read(api: TestClient, kind: str) -> None:
    reply = api.post("/v1/cases", content=json.dumps({"image": IMAGE}), headers={"Content-Type": kind})

    assert reply.status_code == 202


def test_a_call_without_a_body_takes_any_type_and_an_empty_body_is_missing(api: TestClient) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    case = api.post("/v1/cases", json={"image": IMAGE}).json()

    assert api.post(f"{case['links']['self']}/withdraw", content="", headers=form).status_code == 200
    assert _problem(api.post("/v1/cases", content="", headers=form)) == (422, "invalid_request")


def test_every_call_with_a_body_documents_how_it_refuses_one(api: TestClient) -> None:
    for path, methods in api.get("/openapi.json").json()["paths"].items():
        for call in methods.values():
            assert ({"413", "415"} <= set(call["responses"])) is ("requestBody" in call), path


def test_an_item_of_a_batch_is_told_of_in_the_same_words(api: TestClient) -> None:
    reply = api.post("/v1/cases/batch", json={"cases": [{"image": IMAGE, "query": 1}]})

    problem = reply.json()["outcomes"][0]["problem"]
    assert problem["detail"] == "query is not known here"
    assert problem["errors"] == [{"pointer": "/query", "detail": "is not known here"}]


@pytest.mark.parametrize(
    ("query", "parameter", "said"),
    [
        ("limit=0", "limit", "the parameter limit should be greater than or equal to 1"),
        ("since=2026-11-23T04:00", "since", "needs its time zone"),
        ("since=2026-11-23T04:00:00+00:00", "since", "%2B"),
        ("until=2026-11-23T04:00:00.5+0100", "until", "%2B"),
        ("decided_since=2026-11-23%2004:00+01:00", "decided_since", "%2B"),
        ("since=99999999999", "since", "RFC 3339"),
        ("decided_until=-1.5", "decided_until", "RFC 3339"),
        ("until=yesterday", "until", "RFC 3339"),
        ("source=%00", "source", "the parameter source holds a NUL"),
        ("sorce=x", "sorce", "the parameter sorce is not known here"),
        ("source=a&source=b", "source", "the parameter source is given more than once"),
    ],
)
def test_a_parameter_is_called_one(api: TestClient, query: str, parameter: str, said: str) -> None:
    reply = api.get(f"/v1/cases?{query}")

    assert _problem(reply) == (422, "invalid_request")
    assert said in reply.json()["detail"]
    (error,) = reply.json()["errors"]
    assert (error["parameter"], error["in"]) == (parameter, "query")


def test_no_call_takes_a_parameter_that_it_does_not_know(api: TestClient) -> None:
    calls = [
        (method.upper(), re.sub(r"\{\w+\}", str(new_id()), path))
        for path, methods in api.get("/openapi.json").json()["paths"].items()
        for method in methods
        if path.startswith("/v1/")
    ]

    replies = {call: api.request(*call, params={"surprise": "1"}, json={}) for call in calls}

    assert len(replies) > 15
    for call, reply in replies.items():
        assert (reply.status_code, "the parameter surprise" in reply.text) == (422, True), call


def test_whoever_has_no_key_is_told_that_before_anything_else(api: TestClient) -> None:
    reply = api.get("/v1/cases?surprise=1", headers={"Authorization": ""})

    assert _problem(reply) == (401, "unauthenticated")
    unread = api.post("/v1/cases", content="x", headers={"Authorization": ""})
    assert _problem(unread) == (401, "unauthenticated")


def test_a_batch_answers_for_every_item_in_order(api: TestClient) -> None:
    items = [
        {"image": IMAGE},
        "not even an object",
        {"image": {"bucket": "secrets", "key": "x"}},
        {"image": IMAGE, "external_id": "1"},
        {"image": IMAGE, "external_id": "1"},
        {"image": IMAGE, "external_id": "1", "reason": "another body"},
    ]

    reply = api.post("/v1/cases/batch", json={"cases": items})

    assert reply.status_code == 207
    body = reply.json()
    assert [outcome["status"] for outcome in body["outcomes"]] == [202, 422, 422, 202, 200, 409]
    assert (body["accepted"], body["repeated"], body["refused"]) == (2, 1, 3)
    codes = [outcome["problem"]["code"] for outcome in body["outcomes"] if outcome["problem"]]
    assert codes == ["invalid_request", "bucket_not_allowed", "idempotency_conflict"]


@pytest.mark.parametrize("value", ["NaN", "1e999", "-Infinity", r'"\ud800"', r'"\u0000"', r'{"\udfff": 1}'])
def test_a_context_that_cannot_be_kept_harms_no_other_item(api: TestClient, value: str) -> None:
    items = [{"image": IMAGE}, {"image": IMAGE, "context": {"x": "VALUE"}}]
    batch = json.dumps({"cases": items}).replace('"VALUE"', value)

    reply = api.post("/v1/cases/batch", content=batch, headers=AS_JSON)

    assert [outcome["status"] for outcome in reply.json()["outcomes"]] == [202, 422]


def test_a_context_comes_back_as_it_was_sent(api: TestClient) -> None:
    context = {"told": r"\u0000 is six letters", "😀": ["é", 0.5, None, {"deep": True}]}
    case = api.post("/v1/cases", json={"image": IMAGE, "context": context}).json()

    assert api.get(case["links"]["self"]).json()["context"] == context


def test_a_whole_batch_may_be_sent_again(api: TestClient) -> None:
    body = {"cases": [{"image": IMAGE}, {"image": IMAGE}]}
    first = api.post("/v1/cases/batch", json=body, headers={"Idempotency-Key": "b"}).json()
    again = api.post("/v1/cases/batch", json=body, headers={"Idempotency-Key": "b"}).json()

    assert (first["accepted"], again["repeated"]) == (2, 2)
    assert [o["case"]["id"] for o in first["outcomes"]] == [o["case"]["id"] for o in again["outcomes"]]


def test_a_batch_over_the_limit_is_refused_whole(api: TestClient) -> None:
    reply = api.post("/v1/cases/batch", json={"cases": [{"image": IMAGE}] * 1001})

    assert _problem(reply) == (422, "invalid_request")
    assert [error["pointer"] for error in reply.json()["errors"]] == ["/cases"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"Authorization": ""}, (401, "unauthenticated"), id="no key"),
        pytest.param(
            {"Authorization": "Bearer bf_00000000_x"}, (401, "unauthenticated"), id="an unknown key"
        ),
        pytest.param({"Authorization": "Bearer nonsense"}, (401, "unauthenticated"), id="not a key"),
        pytest.param({"Authorization": "Basic eDp5"}, (401, "unauthenticated"), id="another scheme"),
    ],
)
def test_without_a_key_nothing_is_told(api: TestClient, headers: dict, expected: tuple[int, str]) -> None:
    for reply in (
        api.get("/v1/cases", headers=headers),
        api.post("/v1/cases", json={"image": IMAGE}, headers=headers),
    ):
        assert _problem(reply) == expected
        assert reply.headers["www-authenticate"] == "Bearer"


def test_a_key_does_what_its_scopes_say(settings: Settings, database: Database) -> None:
    with database.transaction() as session:
        key = add_key(session, "submitter", ("submit",))
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {key}"}) as client:
        assert client.post("/v1/cases", json={"image": IMAGE}).status_code == 202
        assert _problem(client.get("/v1/cases")) == (403, "scope_missing")


def test_a_revoked_key_opens_nothing(settings: Settings, database: Database) -> None:
    with database.transaction() as session:
        key = add_key(session, "leaver")
        assert revoke_key(session, key.split("_")[1])
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {key}"}) as client:
        assert _problem(client.get("/v1/cases")) == (401, "unauthenticated")


def test_pages_hold_every_case_once_the_newest_first(api: TestClient, database: Database) -> None:
    made = [str(accepted(database)) for _ in range(7)]

    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = api.get("/v1/cases", params=query).json()
        seen += [case["id"] for case in page["cases"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break

    assert seen == made[::-1]


@pytest.mark.parametrize("query", ["/v1/cases?", "/v1/cases?outcome=bona_fide&", "/v1/search?q=avatars&"])
def test_a_last_page_that_is_full_has_no_cursor(
    api: TestClient, database: Database, settings: Settings, query: str
) -> None:
    review, ada = a_review(database, settings), enrolled(database)
    for _ in range(4):
        decide(review, database, ada, ready(database, source="avatars"), BONA_FIDE)

    first = api.get(f"{query}limit=2").json()
    last = api.get(f"{query}limit=2&cursor={first['next_cursor']}").json()

    assert len({case["id"] for page in (first, last) for case in page["cases"]}) == 4
    assert last["next_cursor"] is None


def test_times_are_read_as_the_standard_writes_them(api: TestClient, database: Database) -> None:
    case_id = str(accepted(database))

    for moment in ("2020-01-01T00:00:00Z", "2020-01-01t00:00:00.25z", "2020-01-01 00:00:00%2B01:00"):
        assert _ids(api, f"since={moment}") == [case_id]


def test_filters_show_what_fits(api: TestClient, database: Database) -> None:
    accepted(database, source="avatars", external_id="7")
    begun(database, accepted(database, source="posts"))

    assert len(api.get("/v1/cases", params={"state": "waiting"}).json()["cases"]) == 1
    assert len(api.get("/v1/cases", params={"source": "posts"}).json()["cases"]) == 1
    assert len(api.get("/v1/cases", params={"source": "avatars", "external_id": "7"}).json()["cases"]) == 1
    assert api.get("/v1/cases", params={"external_id": "7"}).json()["cases"] == []
    assert len(api.get("/v1/cases", params={"since": "2020-01-01T00:00:00Z"}).json()["cases"]) == 2
    assert api.get("/v1/cases", params={"since": "2999-01-01T00:00:00Z"}).json()["cases"] == []
    assert _problem(api.get("/v1/cases", params={"since": "2020-01-01T00:00:00"})) == (422, "invalid_request")
    assert _problem(api.get("/v1/cases", params={"state": "failed"})) == (422, "invalid_request")
    assert _problem(api.get("/v1/cases", params={"cursor": "!"})) == (422, "cursor_unreadable")


def _ids(api: TestClient, query: str) -> list[str]:
    reply = api.get(f"/v1/cases?{query}")
    assert reply.status_code == 200, reply.text
    return [case["id"] for case in reply.json()["cases"]]


def test_cases_are_found_by_verdict_and_technique(api: TestClient, database: Database) -> None:
    forged = str(ready(database))
    genuine = str(ready(database, analysis=an_analysis(faces=(with_verdict(bona_fide()),))))
    unclear = str(ready(database, analysis=an_analysis(faces=(with_verdict(undecided()),))))
    without = str(refused(database))
    accepted(database)

    assert _ids(api, "verdict=deepfake") == [forged]
    assert _ids(api, "verdict=bona_fide") == [genuine]
    assert _ids(api, "verdict=undetermined") == [unclear]
    assert _ids(api, "verdict=none") == [without]  # one that waits is none of these
    technique = api.get(f"/v1/cases/{forged}").json()["verdict"]["technique"]
    assert _ids(api, f"technique={technique}") == [forged]
    assert api.get("/v1/cases?verdict=fake").status_code == 422


def test_cases_are_found_by_outcome_and_by_when_they_were_decided(
    api: TestClient, database: Database, settings: Settings
) -> None:
    review, ada = a_review(database, settings), enrolled(database)
    first, second, third = (ready(database) for _ in range(3))
    ready(database)
    # Not in the order in which they were opened.
    for case_id, outcome in ((third, BONA_FIDE), (first, BONA_FIDE), (second, CANNOT_TELL)):
        decide(review, database, ada, case_id, outcome)
    ids = [str(case_id) for case_id in (second, first, third)]
    between = api.get(f"/v1/cases/{first}").json()["decision"]["decided_at"].replace("+", "%2B")

    assert _ids(api, "decided_since=2020-01-01T00:00:00Z") == ids
    assert _ids(api, f"decided_since={between}") == ids[:2]
    assert _ids(api, f"decided_until={between}") == ids[2:]
    assert _ids(api, "outcome=bona_fide") == ids[1:]
    assert _ids(api, "outcome=cannot_tell&state=decided") == ids[:1]
    assert _ids(api, "outcome=bona_fide&state=ready") == []
    assert _ids(api, f"outcome=bona_fide&until={between}") == ids[1:]


def test_what_was_decided_otherwise_since_counts_as_that(
    api: TestClient, database: Database, settings: Settings
) -> None:
    review = a_review(database, settings)
    ada, grace = enrolled(database), enrolled(database, "Grace")
    case_id = ready(database)
    decide(review, database, ada, case_id, BONA_FIDE)
    review.appeal(case_id, "it is my picture", actor="platform:testers")
    decide(review, database, grace, case_id, CANNOT_TELL)

    assert _ids(api, "outcome=bona_fide") == []
    assert _ids(api, "outcome=cannot_tell") == [str(case_id)]


def test_pages_of_decided_cases_hold_each_once(
    api: TestClient, database: Database, settings: Settings
) -> None:
    review, ada = a_review(database, settings), enrolled(database)
    for _ in range(5):
        decide(review, database, ada, ready(database), BONA_FIDE)

    seen, cursor = list[str](), ""
    while True:
        page = api.get(f"/v1/cases?outcome=bona_fide&limit=2{cursor}").json()
        seen += [case["id"] for case in page["cases"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
        wrong_kind = api.get(f"/v1/cases?cursor={page['next_cursor']}")
        assert _problem(wrong_kind) == (422, "cursor_unreadable")

    assert len(seen) == len(set(seen)) == 5
    assert seen == _ids(api, "outcome=bona_fide")


def test_cases_are_searched_for(api: TestClient, database: Database) -> None:
    one = str(accepted(database, external_id="photo-1", context={"user": "u-77"}))
    other = str(accepted(database, external_id="photo-2"))

    def found(**query: str) -> list[str]:
        reply = api.get("/v1/search", params=query)
        assert reply.status_code == 200, reply.text
        return [case["id"] for case in reply.json()["cases"]]

    assert found(q="photo-1") == [one]
    assert found(q=other) == [other]
    assert found(q="u-77") == [one]
    assert found(q="u-77", field="external_id") == []
    assert found(q="photo-1", source="elsewhere") == []
    assert _problem(api.get("/v1/search?q=x&field=colour")) == (422, "invalid_request")
    assert api.get("/v1/search").json()["detail"] == "the parameter q is missing"


def test_pages_of_a_search_hold_each_once(api: TestClient, database: Database) -> None:
    cases = {str(accepted(database, source="avatars")) for _ in range(5)}

    seen, cursor = list[str](), dict[str, str]()
    while True:
        page = api.get("/v1/search", params={"q": "avatars", "limit": 2, **cursor}).json()
        seen += [case["id"] for case in page["cases"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}

    assert len(seen) == 5
    assert set(seen) == cases


def test_a_decided_case_is_erased_by_a_platform_that_may(
    api: TestClient, database: Database, settings: Settings
) -> None:
    review, ada = a_review(database, settings), enrolled(database)
    case_id = ready(database, external_id="photo-1", reason="user report")
    early = api.post(f"/v1/cases/{case_id}/erase")
    decide(review, database, ada, case_id, BONA_FIDE)

    erased, again = (api.post(f"/v1/cases/{case_id}/erase") for _ in range(2))

    assert _problem(early) == (409, "transition_refused")
    assert (erased.status_code, again.status_code) == (200, 200)
    shown = again.json()
    assert (shown["external_id"], shown["reason"], shown["image"]["key"]) == (None, None, "erased")
    assert (shown["erased_at"], shown["decision"]["outcome"]) == (erased.json()["erased_at"], "bona_fide")
    assert _problem(api.post(f"/v1/cases/{new_id()}/erase")) == (404, "case_not_found")


def test_only_a_key_for_it_erases(api: TestClient, database: Database) -> None:
    with database.transaction() as session:
        key = add_key(session, "another", USUAL_SCOPES)

    reply = api.post(f"/v1/cases/{new_id()}/erase", headers={"Authorization": f"Bearer {key}"})

    assert _problem(reply) == (403, "scope_missing")


def test_the_process_that_serves_may_erase_with_its_own_role(
    database: Database, database_url: str, settings: Settings
) -> None:
    review, ada = a_review(database, settings), enrolled(database)
    case_id = ready(database)
    decide(review, database, ada, case_id, BONA_FIDE)
    with closing(Database(as_role(database_url, "bonafide_web"), pool_size=1)) as web:
        with web.transaction() as session:
            insert_question(session, case_id, asked_by="platform:testers", question="Why?")

        with web.transaction() as session:
            assert erase_case(session, case_id, actor="platform:testers")


def test_the_client_reads_what_the_api_answers(settings: Settings, database: Database) -> None:
    review, ada = a_review(database, settings), enrolled(database)
    case_id = ready(database, external_id="photo-1")
    decide(review, database, ada, case_id, DEEPFAKE, Technique.FS)
    with database.transaction() as session:
        key = add_key(session, "testers")

    with serving(create_app(settings)) as url, BonaFide(url, key) as bonafide:
        decided = list(bonafide.cases(outcome=DEEPFAKE, decided_since=datetime(2020, 1, 1)))  # noqa: DTZ001
        found = list(bonafide.search("photo-1", field="external_id"))
        draft = bonafide.statement(case_id, restriction="removed")
        added = bonafide.add_webhook("https://hooks.example.org/x", kinds=["case.decided"])
        again = bonafide.add_webhook("https://hooks.example.org/x")
        rotated = bonafide.rotate_webhook(added.id)
        listed, log = bonafide.webhooks(), list(bonafide.deliveries(added.id))
        bonafide.remove_webhook(added.id)
        erased = bonafide.erase(case_id)
        with pytest.raises(ApiProblem) as refused_:
            list(bonafide.search(""))

        assert [case.id for case in decided] == [case.id for case in found] == [case_id]
        assert draft.statement is not None
        assert (added.secret is None, again.secret, rotated.secret is None) == (False, None, False)
        assert [one.id for one in listed] == [added.id] == [again.id]
        assert (log, bonafide.webhooks()) == ([], [])
        assert erased.erased_at is not None
        assert refused_.value.errors[0]["parameter"] == "q"


def test_the_client_sends_a_time_with_its_zone(settings: Settings, database: Database) -> None:
    case_id = accepted(database)
    with database.transaction() as session:
        key = add_key(session, "testers")
    here = datetime.now()  # noqa: DTZ005  a time of this machine is what is given

    with serving(create_app(settings)) as url, BonaFide(url, key, tries=1) as client:
        found = [[one.id for one in client.cases(since=here + timedelta(hours=n))] for n in (-1, 1)]

    assert found == [[case_id], []]


def test_an_analysed_case_shows_verdict_rationale_and_fingerprint(
    api: TestClient, database: Database
) -> None:
    case_id = accepted(database)
    lease = begun(database, case_id)
    assert lease is not None
    with database.transaction() as session:
        analysis = an_analysis(faces=(a_face_analysis(),))
        record_analysis(session, case_id, lease.lease_token, analysis, actor="worker:w", new_id=new_id())

    case = api.get(f"/v1/cases/{case_id}").json()

    assert case["state"] == "ready"
    assert (case["verdict"]["label"], case["verdict"]["technique"]) == ("deepfake", "FS")
    assert case["rationale"][0]["region"] == "Mouth and Lips"
    assert case["rationale"][0]["polygon"] == [[1, 2], [3.5, 2], [2, 5]]
    assert case["faces"][0]["box"] == [10, 10, 90, 100]
    assert case["fingerprint"] == "f1"
    assert case["picture"]["width"] == 640


def test_a_score_says_what_it_was_calibrated_on_and_is_a_probability_there_alone(
    api: TestClient, database: Database
) -> None:
    basis = Basis("labelled pictures of avatars", ("avatars",))
    with database.transaction() as session:
        note_bundles(session, {"f1": "small 1"}, {"f1": BundleFacts(basis, prompts=2)})
    analysis = an_analysis(faces=(a_face_analysis(verdict=a_verdict(calibrated=True)),))
    of_these, of_others = (
        ready(database, source=source, analysis=analysis) for source in ("avatars", "banners")
    )

    told = {case_id: api.get(f"/v1/cases/{case_id}").json() for case_id in (of_these, of_others)}

    for case_id, holds in ((of_these, True), (of_others, False)):
        for verdict in (told[case_id]["verdict"], told[case_id]["faces"][0]["verdict"]):
            assert verdict["calibrated_on"] == "labelled pictures of avatars"
            assert verdict["is_probability"] is holds
    listed = {row["id"]: row["verdict"]["is_probability"] for row in api.get("/v1/cases").json()["cases"]}
    assert listed == {str(of_these): True, str(of_others): False}


def test_a_case_that_did_not_change_is_not_sent_again(api: TestClient, database: Database) -> None:
    case_id = accepted(database)
    tag = api.get(f"/v1/cases/{case_id}").headers["etag"]

    assert api.get(f"/v1/cases/{case_id}", headers={"If-None-Match": tag}).status_code == 304
    begun(database, case_id)
    assert api.get(f"/v1/cases/{case_id}", headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize(
    ("given", "known"),
    [
        pytest.param("W/TAG", True, id="weak"),
        pytest.param('"other", W/TAG', True, id="in a list"),
        pytest.param('"with, comma",TAG', True, id="after one with a comma"),
        pytest.param(" * ", True, id="any"),
        pytest.param('"other"', False, id="another"),
        pytest.param('"*"', False, id="a star in quotes is a tag"),
        pytest.param("", False, id="empty"),
    ],
)
def test_a_tag_is_compared_as_the_standard_says(
    api: TestClient, database: Database, given: str, known: bool
) -> None:
    place = f"/v1/cases/{accepted(database)}"
    tag = api.get(place).headers["etag"]

    reply = api.get(place, headers={"If-None-Match": given.replace("TAG", tag)})

    assert (reply.status_code, reply.headers["etag"]) == (304 if known else 200, tag)


def test_an_effect_that_is_measured_later_is_sent(api: TestClient, database: Database) -> None:
    place = f"/v1/cases/{ready(database)}"
    before = api.get(place)
    assert before.json()["rationale"][0]["effect"] is None
    measured = a_face_analysis(rationale=(an_artifact(effect=an_effect()),))
    with database.transaction() as session:
        insert_effects(session, session.scalars(select(AnalysisRow.id)).one(), (measured,))

    after = api.get(place, headers={"If-None-Match": before.headers["etag"]})

    assert after.status_code == 200
    assert after.json()["rationale"][0]["effect"] is not None


def test_what_is_not_there_is_a_problem_too(api: TestClient) -> None:
    assert _problem(api.get(f"/v1/cases/{new_id()}")) == (404, "case_not_found")
    assert _problem(api.get("/v1/cases/not-a-uuid")) == (422, "invalid_request")
    assert _problem(api.get("/v2")) == (404, "not_found")
    assert _problem(api.delete("/v1/cases")) == (405, "method_not_allowed")


def test_a_body_that_is_too_large_is_not_read(api: TestClient) -> None:
    assert _problem(api.post("/v1/cases", content=b"x" * (17 * 2**20))) == (413, "request_too_large")
    in_pieces = (b"x" * 2**20 for _ in range(17))
    assert _problem(api.post("/v1/cases", content=in_pieces, headers=AS_JSON)) == (413, "request_too_large")


def test_an_upload_is_a_signed_put_and_then_a_case(api: TestClient) -> None:
    permission = api.post("/v1/uploads", json={"media_type": "image/png"}).json()

    stored = httpx.put(permission["url"], content=b"bytes", headers=permission["headers"])

    assert stored.status_code == 200
    assert api.post("/v1/cases", json={"image": permission["image"]}).status_code == 202


def test_a_signed_put_is_good_for_its_own_key_alone(api: TestClient) -> None:
    permission = api.post("/v1/uploads", json={}).json()
    elsewhere = permission["url"].replace("/uploads/", "/other/")

    assert httpx.put(elsewhere, content=b"x", headers=permission["headers"]).status_code in (400, 403)


def test_the_line_is_told(api: TestClient, database: Database) -> None:
    begun(database, accepted(database))
    accepted(database)

    stats = api.get("/v1/queue/stats").json()

    assert (stats["waiting"], stats["analyzing"], stats["ready"]) == (1, 1, 0)
    assert stats["estimated_wait_seconds"] is None


def test_the_service_says_how_it_is(api: TestClient) -> None:
    assert api.get("/healthz").json() == {"status": "alive"}
    assert api.get("/readyz").json() == {"database": "ok", "broker": "ok"}
    assert 'bonafide_cases{state="waiting"} 0.0' in api.get("/metrics").text


def test_without_postgres_the_service_is_alive_but_not_ready(settings: Settings) -> None:
    with TestClient(create_app(_lost(settings)), headers={"Authorization": "Bearer bf_1_2"}) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        refused = client.post("/v1/cases", json={"image": IMAGE})
        assert _problem(refused) == (503, "database_unavailable")
        assert refused.headers["retry-after"] == "5"


def _lost(settings: Settings) -> Settings:
    """Neither server is where these settings say."""
    urls = {"database_url": "postgresql://somebody@127.0.0.1:9/x", "broker_url": "redis://127.0.0.1:9/0"}
    return settings.model_copy(
        update={name: type(getattr(settings, name))(url) for name, url in urls.items()}
    )


def test_where_our_servers_are_is_for_the_log_alone(settings: Settings) -> None:
    with (
        TestClient(create_app(_lost(settings)), headers={"Authorization": "Bearer bf_1_2"}) as client,
        capture_logs() as logged,
    ):
        client.cookies.set(COOKIE, "secret")
        said = {path: client.get(path) for path in ("/readyz", "/v1/cases", "/queue")}

    assert {path: reply.status_code for path, reply in said.items()} == dict.fromkeys(said, 503)
    assert not [path for path, reply in said.items() if re.search(r"127\.0|somebody", reply.text)]
    assert set(said["/readyz"].json()) == {"database", "broker"}
    assert {entry["event"] for entry in logged if "127.0.0.1" in str(entry)} == {
        "not_ready",
        "request_failed",
        "page_failed",
    }


def test_the_reference_is_a_page_under_the_strict_policy_and_names_every_call(api: TestClient) -> None:
    reply = api.get("/docs", headers={"Authorization": ""})

    assert reply.status_code == 200
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?!/static/)", reply.text)
    document = api.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in reply.text
    links, places = (set(re.findall(found, reply.text)) for found in (r'href="#([\w-]+)"', r'id="([\w-]+)"'))
    assert set(document["components"]["schemas"]) <= places
    assert links <= places


def test_the_document_of_the_interface_names_every_call(api: TestClient) -> None:
    document = api.get("/openapi.json").json()

    assert document["openapi"].startswith("3.1")
    assert {"/v1/cases", "/v1/cases/batch", "/v1/cases/{case_id}", "/v1/uploads", "/v1/queue/stats"} <= set(
        document["paths"]
    )
    assert "CaseIn" in document["components"]["schemas"]
