"""The console's pages without a browser: who gets in, what every answer carries, and what is refused."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from moderation.accounts.accounts import Accounts
from moderation.archive.erasure import erase_case
from moderation.database.connection import Database
from moderation.decisions import Outcome
from moderation.local import Stack, System, add_first_people
from moderation.people import Person, Role
from moderation.settings import Settings
from moderation.web.app import create_app
from moderation.web.console import decisions
from moderation.web.sessions import COOKIE, own_path
from tests.builders import new_id
from tests.integration.conftest import accepted, ready
from tests.integration.deciding import a_review, decide

PASSWORD = "a long enough password"


@pytest.fixture
def accounts(database: Database, settings: Settings) -> Accounts:
    return Accounts(database, settings)


@pytest.fixture
def rosa(accounts: Accounts) -> Person:
    return accounts.add_person("rosa@example.org", "Rosa Diaz", Role.REVIEWER, PASSWORD)


@pytest.fixture
def visitor(settings: Settings) -> Iterator[TestClient]:
    """A browser of somebody who is not signed in."""
    with TestClient(create_app(settings), follow_redirects=False) as client:
        yield client


@pytest.fixture
def reviewer(visitor: TestClient, accounts: Accounts, rosa: Person) -> TestClient:
    visitor.cookies.set(COOKIE, accounts.sign_in_as(rosa).secret)
    return visitor


def _token(reply: Any) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', reply.text)
    assert found is not None
    return found[1]


def _sign_in(client: TestClient, email: str, password: str, next_: str = "/queue") -> Any:
    door = client.get("/sign-in")
    fields = {"csrf": _token(door), "email": email, "password": password, "next": next_}
    return client.post("/sign-in", data=fields)


@pytest.mark.parametrize(
    "path", ["/queue", "/decisions", "/preferences", "/people", "/webhooks", "/insight", "/bundles"]
)
def test_without_a_session_every_page_leads_to_the_door(visitor: TestClient, path: str) -> None:
    reply = visitor.get(path)

    assert reply.status_code == 303
    assert reply.headers["location"].startswith("/sign-in")


def test_signing_in_sets_a_cookie_that_scripts_cannot_read_and_leads_where_one_wanted_to_go(
    visitor: TestClient, rosa: Person
) -> None:
    wanted = visitor.get("/decisions").headers["location"]
    assert wanted == "/sign-in?next=/decisions"

    reply = _sign_in(visitor, "Rosa@Example.org", PASSWORD, "/decisions")

    assert (reply.status_code, reply.headers["location"]) == (303, "/decisions")
    cookie = next(value for value in reply.headers.get_list("set-cookie") if value.startswith(COOKIE))
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert visitor.get("/decisions").status_code == 200


def test_what_an_open_page_asks_for_by_itself_is_no_use_of_a_session(
    reviewer: TestClient, database: Database
) -> None:
    case_id = ready(database)

    def seen_after(address: str) -> bool:
        """Whether asking for this was noted as use."""
        with database.transaction() as session:
            session.execute(text("UPDATE sign_ins SET seen_at = now() - interval '1 hour'"))
        assert reviewer.get(address).status_code == 200
        with database.transaction() as session:
            return bool(session.scalar(text("SELECT seen_at > now() - interval '1 minute' FROM sign_ins")))

    assert not seen_after("/queue/counts")
    assert not seen_after(f"/cases/{case_id}/questions")
    assert seen_after(f"/cases/{case_id}")


def test_over_https_the_cookie_is_for_https_alone(settings: Settings, rosa: Person) -> None:
    with TestClient(create_app(settings), base_url="https://testserver", follow_redirects=False) as client:
        reply = _sign_in(client, rosa.email, PASSWORD)

    assert "Secure" in next(v for v in reply.headers.get_list("set-cookie") if v.startswith(COOKIE))


def test_a_wrong_password_and_an_unknown_email_are_answered_alike(visitor: TestClient, rosa: Person) -> None:
    wrong, unknown = _sign_in(visitor, rosa.email, "wrong"), _sign_in(visitor, "nobody@example.org", "wrong")

    assert (wrong.status_code, unknown.status_code) == (401, 401)
    assert [_codes(wrong), _codes(unknown)] == [["sign_in_refused"]] * 2


def test_guessing_is_slowed_down_and_says_for_how_long(visitor: TestClient, rosa: Person) -> None:
    for _ in range(5):
        _sign_in(visitor, rosa.email, "wrong")

    reply = _sign_in(visitor, rosa.email, PASSWORD)

    assert reply.status_code == 429
    assert int(reply.headers["retry-after"]) >= 1
    assert _codes(reply) == ["sign_in_throttled"]


def test_signing_out_ends_the_session_on_the_server(reviewer: TestClient) -> None:
    secret = reviewer.cookies[COOKIE]
    token = _token(reviewer.get("/queue"))

    assert reviewer.post("/sign-out", data={"csrf": token}).headers["location"] == "/sign-in"

    reviewer.cookies.set(COOKIE, secret)
    assert reviewer.get("/queue").status_code == 303


@pytest.mark.parametrize(
    "path",
    [
        "/sign-out",
        "/queue/next",
        "/cases/{case}/claim",
        "/cases/{case}/renew",
        "/cases/{case}/release",
        "/cases/{case}/skip",
        "/cases/{case}/reveal",
        "/cases/{case}/judge",
        "/cases/{case}/judge/show",
        "/cases/{case}/draft",
        "/cases/{case}/decide",
        "/cases/{case}/ask",
        "/cases/{case}/appeal",
        "/decisions/{case}/undo",
        "/decisions/undo",
        "/decisions/confirm",
        "/decisions/bulk",
        "/preferences",
        "/preferences/picture",
        "/preferences/password",
        "/people",
        "/people/{case}/role",
        "/people/{case}/disable",
        "/people/{case}/enable",
        "/people/{case}/password",
        "/webhooks",
        "/webhooks/{case}/remove",
        "/deliveries/{case}/resend",
    ],
)
def test_a_form_without_its_token_changes_nothing(
    reviewer: TestClient, database: Database, path: str
) -> None:
    case = accepted(database)

    for fields in ({}, {"csrf": "guessed"}):
        reply = reviewer.post(path.format(case=case), data=fields)
        assert reply.status_code == 403, reply.text
        assert _codes(reply) == ["form_forged"]


def test_signing_in_needs_the_token_of_its_form_too(visitor: TestClient, rosa: Person) -> None:
    fields = {"email": rosa.email, "password": PASSWORD, "csrf": "guessed"}

    assert visitor.post("/sign-in", data=fields).status_code == 403
    visitor.get("/sign-in")
    assert visitor.post("/sign-in", data=fields).status_code == 403


def test_pages_carry_a_strict_policy_and_are_not_kept_by_caches(
    reviewer: TestClient, settings: Settings
) -> None:
    for reply in (reviewer.get("/queue"), reviewer.get("/cases/x"), reviewer.get("/sign-out")):
        policy = (
            reply.headers["content-security-policy"] if reply.status_code != 405 else "default-src 'none'"
        )
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    page = reviewer.get("/queue")
    assert f"img-src 'self' {settings.s3_endpoint_url}" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|style=", page.text) is None


def _codes(reply: Any) -> list[str]:
    return re.findall(r'data-code="([^"]*)"', reply.text)


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/nowhere", "/cases", "/static/nothing.css", "/sign-out"])
def test_an_address_that_leads_nowhere_is_a_page_for_people(
    reviewer: TestClient, visitor: TestClient, path: str
) -> None:
    reply = reviewer.get(path, headers=BROWSER)

    assert (reply.status_code, _codes(reply)) == (
        (405, ["method_not_allowed"]) if path == "/sign-out" else (404, ["not_found"])
    )
    assert "Rosa Diaz" in reply.text
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    assert reply.headers["cache-control"] == "no-store"


def test_it_is_a_page_for_strangers_too_without_a_name_on_it(visitor: TestClient) -> None:
    reply = visitor.get("/nowhere", headers=BROWSER)

    assert (reply.status_code, _codes(reply)) == (404, ["not_found"])
    assert "Pages" not in reply.text


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("/nowhere", {}, id="no browser"),
        pytest.param("/nowhere", {"Accept": "application/json"}, id="somebody who wants JSON"),
        pytest.param("/v1/nowhere", BROWSER, id="the API"),
    ],
)
def test_programs_are_told_of_it_as_before(reviewer: TestClient, path: str, headers: dict[str, str]) -> None:
    reply = reviewer.get(path, headers=headers)

    assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
    assert reply.headers["content-type"] == "application/problem+json"


def test_a_fault_of_ours_is_a_page_with_the_number_to_ask_by(settings: Settings) -> None:
    app = create_app(settings)
    app.add_api_route("/faulty", _fail)
    with TestClient(app, raise_server_exceptions=False) as client:
        page, problem = client.get("/faulty", headers=BROWSER), client.get("/faulty")

    assert (page.status_code, problem.status_code) == (500, 500)
    assert re.search("Request [0-9a-f]{32}", page.text)
    assert "secret" not in page.text
    assert problem.json()["code"] == "internal"


def test_with_the_database_gone_the_page_goes_without_a_name(settings: Settings) -> None:
    gone = settings.model_copy(update={"database_url": SecretStr("postgresql://nobody@127.0.0.1:1/none")})
    with TestClient(create_app(gone), cookies={COOKIE: "anything"}) as client:
        reply = client.get("/nowhere", headers=BROWSER)

    assert (reply.status_code, _codes(reply)) == (404, ["not_found"])


def _fail() -> None:
    raise RuntimeError("a secret of ours")


def test_a_picture_that_is_shown_unblurred_is_noted_however_its_page_was_reached(
    reviewer: TestClient, database: Database
) -> None:
    case_id = ready(database)
    kinds = text("SELECT kind FROM views WHERE case_id = :case ORDER BY id")

    reviewer.get(f"/cases/{case_id}")
    with database.transaction() as session:
        assert session.scalars(kinds, {"case": case_id}).all() == []
    reviewer.get(f"/cases/{case_id}?revealed=1")

    with database.transaction() as session:
        assert session.scalars(kinds, {"case": case_id}).all() == ["shown"]


def test_whom_a_picture_was_sent_to_is_noted_once_a_minute(
    reviewer: TestClient, database: Database, accounts: Accounts, rosa: Person
) -> None:
    case_id = ready(database)
    noted = text("SELECT person_id FROM views WHERE case_id = :case AND kind = 'sent' ORDER BY id")
    earlier = text(
        "INSERT INTO views (case_id, person_id, kind, at) VALUES (:case, :rosa, 'sent', now() - interval '61 s')"
    )
    with database.transaction() as session:
        session.execute(earlier, {"case": case_id, "rosa": rosa.id})

    assert [reviewer.get(f"/cases/{case_id}/picture").status_code for _ in range(2)] == [302, 302]
    ben = accounts.add_person("ben@example.org", "Ben Okafor", Role.REVIEWER, PASSWORD)
    reviewer.cookies.set(COOKIE, accounts.sign_in_as(ben).secret)
    reviewer.get(f"/cases/{case_id}/picture")

    with database.transaction() as session:
        assert session.scalars(noted, {"case": case_id}).all() == [rosa.id, rosa.id, ben.id]


def test_all_that_somebody_decided_is_read_page_by_page_the_newest_first(
    reviewer: TestClient,
    database: Database,
    settings: Settings,
    rosa: Person,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decisions, "PAGE", 2)
    review = a_review(database, settings)
    cases = [decide(review, database, rosa, ready(database), Outcome.DEEPFAKE).case_id for _ in range(5)]

    seen: list[str] = []
    path: str | None = "/decisions"
    while path:
        shown = reviewer.get(path).text
        seen += re.findall(r'<th scope="row"><a href="/cases/([^"]+)"', shown)
        older = re.search(r'<a class="button" href="([^"]+)">Older</a>', shown)
        path = older and older[1]

    assert seen == [str(case_id) for case_id in reversed(cases)]
    first, unknown = (
        re.sub(r"\b\d+ s ago", "", reviewer.get(path).text)
        for path in ("/decisions", f"/decisions?before={new_id()}")
    )
    assert unknown == first


def test_a_new_system_has_a_first_reviewer_and_admin_and_an_old_one_keeps_its_own(
    database: Database, settings: Settings, accounts: Accounts, tmp_path: Path
) -> None:
    env = {"BONAFIDE_DATABASE_URL": settings.database_url.get_secret_value()}
    system = System(Stack(tmp_path), "", "", env)

    added = add_first_people(system)

    assert [one.role for one in added] == [Role.REVIEWER, Role.ADMIN]
    for one in added:
        assert accounts.sign_in(one.email, one.password, address="127.0.0.1").person.role is one.role
    kept = tmp_path / "people.txt"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert added[0].password in kept.read_text()
    assert add_first_people(system) == []


def test_what_is_not_there_is_a_page_that_says_so(reviewer: TestClient) -> None:
    paths = {"/cases/not-an-id": "not_found", "/cases/0190b2a0-0000-7000-8000-000000000000": "case_not_found"}
    for path, code in paths.items():
        reply = reviewer.get(path)
        assert (reply.status_code, _codes(reply)) == (404, [code])
        assert "text/html" in reply.headers["content-type"]
        assert 'class="button" href="/queue"' in reply.text


@pytest.mark.parametrize("query", ["priority=99999", "source=%00", "older=99999", "verdict=%00&state=%00"])
def test_a_filter_that_nobody_could_choose_is_a_page_all_the_same(reviewer: TestClient, query: str) -> None:
    token = _token(reviewer.get("/queue"))

    assert reviewer.get(f"/queue?{query}").status_code == 200
    assert reviewer.post("/queue/next", data={"csrf": token, "from": query}).status_code == 303


@pytest.mark.parametrize("version", ["2147483648", "999999999999999999"])
def test_a_version_that_no_case_has_is_a_conflict(
    reviewer: TestClient, database: Database, version: str
) -> None:
    case_id = ready(database)
    fields = {"csrf": _token(reviewer.get("/queue")), "token": "1", "outcome": "deepfake", "technique": "FS"}

    assert reviewer.post(f"/cases/{case_id}/decide", data={**fields, "version": version}).status_code == 409


@pytest.mark.parametrize("path", ["/people", "/webhooks"])
def test_a_reviewer_is_not_shown_what_is_for_others(reviewer: TestClient, path: str) -> None:
    reply = reviewer.get(path)

    assert reply.status_code == 403
    assert f'href="{path}"' not in reply.text


def test_the_services_ask_for_the_role_and_not_only_the_pages(reviewer: TestClient, rosa: Person) -> None:
    token = _token(reviewer.get("/queue"))

    for path, fields in (
        ("/people", {"email": "x@example.org", "name": "X", "role": "admin"}),
        (f"/people/{rosa.id}/role", {"role": "admin"}),
        ("/webhooks", {"url": "https://example.org", "kind": "case.decided"}),
        ("/decisions/bulk", {"case": f"{rosa.id}:1", "outcome": "bona_fide", "count": "1"}),
    ):
        assert reviewer.post(path, data={"csrf": token, **fields}).status_code == 403


@pytest.mark.parametrize(
    ("path", "led_to"),
    [
        pytest.param("/cases/1?from=a", "/cases/1?from=a", id="one of ours"),
        pytest.param("https://evil.example", "/queue", id="another site"),
        pytest.param("//evil.example", "/queue", id="another host without a scheme"),
        pytest.param("/\\evil.example", "/queue", id="a backslash that browsers read as a slash"),
        pytest.param("/%09/evil.example", "/%09/evil.example", id="a tab that stays encoded"),
        pytest.param("/\t/evil.example", "/queue", id="a tab that browsers drop"),
        pytest.param("javascript:alert(1)", "/queue", id="a script"),
        pytest.param("", "/queue", id="nothing"),
    ],
)
def test_nobody_is_led_away_after_signing_in(path: str, led_to: str) -> None:
    assert own_path(path) == led_to


def test_the_pages_own_files_are_kept_by_browsers_for_ever(visitor: TestClient) -> None:
    door = visitor.get("/sign-in").text
    paths = re.findall(r'(?:href|src)="(/static/[^"#]+)', door)

    assert {path.split("?")[0] for path in paths} >= {
        "/static/console.css",
        "/static/console.js",
        "/static/htmx.min.js",
    }
    for path in paths:
        reply = visitor.get(path)
        assert reply.status_code == 200
        assert "immutable" in reply.headers["cache-control"]
    assert visitor.get("/static/inter.woff2").status_code == 200
    assert visitor.get("/static/../pages.py").status_code == 404


def test_a_lead_opens_an_appeal_and_the_case_says_why(
    visitor: TestClient, accounts: Accounts, database: Database, rosa: Person, settings: Settings
) -> None:
    lin = accounts.add_person("lin@example.org", "Lin Wei", Role.LEAD, PASSWORD)
    case_id = ready(database)
    decide(a_review(database, settings), database, rosa, case_id, Outcome.DEEPFAKE)
    visitor.cookies.set(COOKIE, accounts.sign_in_as(lin).secret)
    token = _token(visitor.get(f"/cases/{case_id}"))

    reply = visitor.post(f"/cases/{case_id}/appeal", data={"csrf": token, "reason": "It is her."})

    assert (reply.status_code, reply.headers["location"]) == (303, f"/cases/{case_id}")
    page = visitor.get(f"/cases/{case_id}")
    assert "It is her." in page.text
    assert "Another person decides" in page.text


def test_a_case_that_one_has_decided_waits_for_nobody_else(
    reviewer: TestClient, database: Database, settings: Settings, rosa: Person
) -> None:
    case_id, review = ready(database), a_review(database, settings)
    decide(review, database, rosa, case_id, Outcome.DEEPFAKE)

    decided = _claim(reviewer.get(f"/cases/{case_id}").text)
    review.appeal(case_id, "It is her.", actor="platform:test")
    appealed = _claim(reviewer.get(f"/cases/{case_id}").text)

    assert decided == ""
    assert "badge caution" in appealed


def _claim(page: str) -> str:
    """The part of a case's page that says whose it is."""
    found = re.search(r'id="claim">(.*?)</div>', page, re.DOTALL)
    assert found is not None
    return found[1].strip()


def test_an_erased_case_says_so_and_offers_neither_picture_nor_question_nor_appeal(
    visitor: TestClient, accounts: Accounts, database: Database, rosa: Person, settings: Settings
) -> None:
    lin = accounts.add_person("lin@example.org", "Lin Wei", Role.LEAD, PASSWORD)
    case_id = ready(database)
    decide(a_review(database, settings), database, rosa, case_id, Outcome.DEEPFAKE)
    visitor.cookies.set(COOKIE, accounts.sign_in_as(lin).secret)
    offered = [f"/cases/{case_id}/{what}" for what in ("picture", "ask", "appeal")]
    before = visitor.get(f"/cases/{case_id}").text
    with database.transaction() as session:
        assert erase_case(session, case_id, actor="operator")

    page = visitor.get(f"/cases/{case_id}").text

    assert [address in before for address in offered] == [True, True, True]
    assert [address in page for address in offered] == [False, False, False]
    assert "<strong>Erased</strong>" in page
    assert visitor.get(f"/cases/{case_id}/picture").status_code == 404
    with database.transaction() as session:
        assert session.scalars(text("SELECT kind FROM views WHERE kind = 'sent'")).all() == []


def test_the_statement_of_an_appealed_decision_stays_readable_and_says_so(
    reviewer: TestClient, database: Database, settings: Settings, rosa: Person
) -> None:
    review = a_review(database, settings)
    case_id = ready(database)
    decide(review, database, rosa, case_id, Outcome.DEEPFAKE)
    decided = reviewer.get(f"/cases/{case_id}/statement")
    review.appeal(case_id, "it is me", actor="platform:testers")

    appealed = reviewer.get(f"/cases/{case_id}/statement")

    assert (decided.status_code, appealed.status_code) == (200, 200)
    assert ["is appealed" in page.text for page in (decided, appealed)] == [False, True]
