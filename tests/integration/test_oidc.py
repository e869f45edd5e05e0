"""Signing in through a real OpenID Connect provider, run for the test."""

import base64
import html
import json
import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient
from oidc_provider_mock import User, run_server_in_thread

from moderation.accounts.accounts import Accounts
from moderation.database.connection import Database
from moderation.people import Person, Role
from moderation.settings import Settings
from moderation.web.app import create_app
from moderation.web.oidc import COOKIE as STARTED
from moderation.web.oidc import Started
from moderation.web.sessions import COOKIE

PEOPLE = [
    User(sub="ada", claims={"email": "Ada@example.org", "email_verified": True}),
    User(sub="unverified", claims={"email": "ada@example.org", "email_verified": False}),
    User(sub="silent", claims={"email": "ada@example.org"}),
    User(sub="stranger", claims={"email": "stranger@example.org", "email_verified": True}),
    User(sub="gone", claims={"email": "gone@example.org", "email_verified": True}),
    User(sub="nameless", claims={}),
]


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with run_server_in_thread(user_claims=PEOPLE, require_nonce=True) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def chosen(settings: Settings, issuer: str) -> Settings:
    values = {"oidc_issuer": issuer, "oidc_client_id": "bonafide", "oidc_client_secret": "of-the-test"}
    return Settings.model_validate({**settings.model_dump(), **values})


@pytest.fixture
def accounts(database: Database, chosen: Settings) -> Accounts:
    return Accounts(database, chosen)


@pytest.fixture
def ada(accounts: Accounts) -> Person:
    return accounts.add_person("ada@example.org", "Ada", Role.REVIEWER, None)


@pytest.fixture
def browser(chosen: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(chosen), base_url="http://bonafide.example", follow_redirects=False) as client:
        yield client


def confirmed(browser: TestClient, sub: str, *, begin: str = "/oidc/start") -> str:
    """Begin here, confirm at the provider; return the path it sends the browser back to."""
    begun = browser.get(begin)
    assert begun.status_code == 303
    answer = httpx.post(begun.headers["location"], data={"sub": sub})
    back = urlsplit(answer.headers["location"])
    assert back.netloc == "bonafide.example"
    return f"{back.path}?{back.query}"


def test_a_verified_email_of_somebody_who_was_added_opens_a_session(
    browser: TestClient, accounts: Accounts, ada: Person
) -> None:
    ended = browser.get(confirmed(browser, "ada"))

    session = accounts.session(ended.cookies[COOKIE])
    assert (ended.status_code, ended.headers["location"]) == (303, "/queue")
    assert session is not None
    assert session.person.id == ada.id
    assert "httponly" in ended.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        ("/cases/7f3a?from=stage%3Dappeal", "/cases/7f3a?from=stage%3Dappeal"),
        ("https://evil.example/", "/queue"),
        ("//evil.example", "/queue"),
    ],
)
def test_somebody_who_followed_a_link_comes_where_it_leads_if_that_is_here(
    browser: TestClient, ada: Person, wanted: str, shown: str
) -> None:
    door = html.unescape(browser.get("/sign-in", params={"next": wanted}).text)
    begin = re.search(r'href="(/oidc/start[^"]*)"', door)
    assert begin is not None

    ended = browser.get(confirmed(browser, "ada", begin=begin[1]))

    assert ended.headers["location"] == shown


def test_a_cookie_that_was_written_over_sends_nobody_elsewhere(browser: TestClient, ada: Person) -> None:
    back = confirmed(browser, "ada")
    started = json.loads(base64.urlsafe_b64decode(browser.cookies[STARTED]))
    started["next"] = "https://evil.example/"
    browser.cookies.clear()
    browser.cookies.set(
        STARTED, base64.urlsafe_b64encode(json.dumps(started).encode()).decode(), path="/oidc"
    )

    assert browser.get(back).headers["location"] == "/queue"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("sign_in_refused", "Ask an admin"),
        ("oidc_unavailable", "does not answer"),
    ],
)
def test_whoever_is_sent_back_reads_why(browser: TestClient, code: str, words: str) -> None:
    assert words in browser.get("/sign-in", params={"refused": code}).text


def test_a_link_puts_no_words_of_its_own_on_the_page(browser: TestClient) -> None:
    page = browser.get("/sign-in", params={"refused": "Call this number"}).text

    assert "Call this number" not in page
    assert 'role="alert"' not in page


@pytest.mark.parametrize("sub", ["unverified", "silent", "stranger", "gone", "nameless"])
def test_anybody_else_is_sent_back(browser: TestClient, accounts: Accounts, ada: Person, sub: str) -> None:
    accounts.disable(None, accounts.add_person("gone@example.org", "Gone", Role.REVIEWER, None).id)

    ended = browser.get(confirmed(browser, sub))

    assert ended.headers["location"] == "/sign-in?refused=sign_in_refused"
    assert COOKIE not in ended.cookies


def test_what_goes_to_the_provider_is_bound_to_the_browser(browser: TestClient, issuer: str) -> None:
    begun = browser.get("/oidc/start")

    sent = parse_qs(urlsplit(begun.headers["location"]).query)
    kept = Started.read(begun.cookies[STARTED])
    assert begun.headers["location"].startswith(issuer)
    assert sent["state"] == [kept.state]
    assert sent["nonce"] == [kept.nonce]
    assert sent["code_challenge_method"] == ["S256"]
    assert kept.verifier not in begun.headers["location"]


@pytest.mark.parametrize("changed", ["state", "nonce", "cookie", "code"])
def test_an_answer_to_another_question_is_refused(browser: TestClient, ada: Person, changed: str) -> None:
    back = confirmed(browser, "ada")
    kept = browser.cookies[STARTED]
    started = json.loads(base64.urlsafe_b64decode(kept))
    browser.cookies.clear()
    if changed == "code":
        back = back.replace("code=", "code=x")
    elif changed != "cookie":
        started[changed] = "another"
    if changed != "cookie":
        cookie = base64.urlsafe_b64encode(json.dumps(started).encode()).decode()
        browser.cookies.set(STARTED, cookie, path="/oidc")

    ended = browser.get(back)

    assert ended.headers["location"].startswith("/sign-in?refused=")
    assert COOKIE not in ended.cookies


def test_a_code_opens_once(browser: TestClient, ada: Person) -> None:
    begun = browser.get("/oidc/start")
    cookie = begun.cookies[STARTED]
    answer = httpx.post(begun.headers["location"], data={"sub": "ada"})
    back = urlsplit(answer.headers["location"])

    first = browser.get(f"{back.path}?{back.query}")
    browser.cookies.set(STARTED, cookie, path="/oidc")
    second = browser.get(f"{back.path}?{back.query}")

    assert first.headers["location"] == "/queue"
    assert second.headers["location"].startswith("/sign-in?refused=")


def test_a_provider_that_does_not_answer_is_said(chosen: Settings) -> None:
    elsewhere = chosen.model_copy(update={"oidc_issuer": "http://127.0.0.1:1"})

    with TestClient(create_app(elsewhere), follow_redirects=False) as browser:
        begun = browser.get("/oidc/start")

    assert begun.headers["location"] == "/sign-in?refused=oidc_unavailable"


def test_a_provider_is_not_asked_anew_by_everybody_who_begins(settings: Settings) -> None:
    with run_server_in_thread(user_claims=PEOPLE) as server:
        issuer = f"http://localhost:{server.server_port}"
        values = {"oidc_issuer": issuer, "oidc_client_id": "bonafide"}
        with TestClient(create_app(settings.model_copy(update=values)), follow_redirects=False) as browser:
            browser.get("/oidc/start")
            server.shutdown()
            begun = browser.get("/oidc/start")

    assert begun.headers["location"].startswith(issuer)


@pytest.mark.parametrize("cookie", ["", "no base64 \x7f", "bm8ganNvbg==", "e30=", "W10=", "eyJzdGF0ZSI6MX0="])
@pytest.mark.parametrize("query", ["", "?code=c&state=s", "?code=c&state=%C3%A9%00", "?error=access_denied"])
def test_nonsense_is_sent_back_too(browser: TestClient, cookie: str, query: str) -> None:
    ended = browser.get(f"/oidc/callback{query}", headers={"cookie": f"{STARTED}={cookie}"})

    assert ended.headers["location"] == "/sign-in?refused=sign_in_refused"


def test_without_settings_there_is_no_such_door(settings: Settings) -> None:
    with TestClient(create_app(settings), follow_redirects=False) as browser:
        assert browser.get("/oidc/start").headers["location"] == "/sign-in?refused=sign_in_refused"
