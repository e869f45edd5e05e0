"""What the console shows of pictures that look alike, and of certificates, as its pages say it."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from fastapi.testclient import TestClient

from moderation.accounts.accounts import Accounts
from moderation.cases import CaseState
from moderation.database.connection import Database
from moderation.decisions import Outcome
from moderation.evidence import zones
from moderation.evidence.certify import Found, Promise, Tried
from moderation.evidence.related import put_list
from moderation.people import Role
from moderation.settings import Settings
from moderation.web.app import create_app
from moderation.web.sessions import COOKIE
from tests.integration.conftest import enrolled, stored
from tests.integration.deciding import a_review, decide
from tests.integration.test_related import a_hash, alike, near_to, seen

SignIn = Callable[[Role], tuple[TestClient, str]]


@pytest.fixture
def sign_in(settings: Settings, database: Database) -> Iterator[SignIn]:
    """The console in this process, for somebody of a role; and the token of their forms. Nothing is judged blind."""
    chosen = settings.model_copy(update={"blind_first_share": 0.0})
    with TestClient(create_app(chosen), follow_redirects=False) as client:

        def enter(role: Role) -> tuple[TestClient, str]:
            entered = Accounts(database, chosen).sign_in_as(enrolled(database, "Grace", role))
            client.cookies.set(COOKIE, entered.secret)
            return client, entered.csrf

        yield enter


def test_a_case_shows_what_looks_like_it_and_what_became_of_that(
    sign_in: SignIn, database: Database, settings: Settings
) -> None:
    frame, face = a_hash(), a_hash()
    ours = seen(database, alike(frame, face))
    swapped = seen(database, alike(near_to(frame, 20), near_to(face, 70)))
    decide(a_review(database, settings), database, enrolled(database), swapped, Outcome.BONA_FIDE)
    with database.transaction() as session:
        put_list(session, "known fakes", "of 2026", [(near_to(frame, 1), "case 7")])
    client, _ = sign_in(Role.REVIEWER)

    page = client.get(f"/cases/{ours}").text
    beside = client.get(f"/cases/{ours}/beside/{swapped}")

    assert re.findall(r'href="/cases/[^"]+/beside/([^"]+)"', page) == [str(swapped)]
    assert 'data-faces="other"' in page
    assert "Bona fide, by Ada" in page
    assert "known fakes" in page
    assert beside.status_code == 200
    assert "20 of 256 bits differ" in beside.text
    assert f"/cases/{swapped}/picture" in beside.text


def test_two_are_not_compared_before_the_first_is_judged(settings: Settings, database: Database) -> None:
    frame = a_hash()
    ours, other = seen(database, alike(frame)), seen(database, alike(frame))
    chosen = settings.model_copy(update={"blind_first_share": 1.0})
    with TestClient(create_app(chosen), follow_redirects=False) as client:
        entered = Accounts(database, chosen).sign_in_as(enrolled(database))
        client.cookies.set(COOKIE, entered.secret)

        assert f"/cases/{ours}/beside/" not in client.get(f"/cases/{ours}").text
        assert client.get(f"/cases/{ours}/beside/{other}").status_code == 409


def test_the_queue_shows_a_campaign_as_one_line_and_opens_it(sign_in: SignIn, database: Database) -> None:
    frame = a_hash()
    cases = [seen(database, alike(near_to(frame, 2))) for _ in range(3)]
    client, csrf = sign_in(Role.LEAD)

    collapsed = client.get("/queue").text
    campaign = collapsed.split("/queue?campaign=")[1].split('"')[0]
    opened = client.get(f"/queue?campaign={campaign}").text

    assert re.findall(r'data-more="(\d+)"', collapsed) == ["2"]
    assert [str(case) in collapsed for case in cases] == [True, False, False]
    assert all(str(case) in opened for case in cases)

    chosen = [f"{case}:3" for case in cases]
    form = {"csrf": csrf, "case": chosen, "count": "3", "outcome": "deepfake", "reason": "the same picture"}
    client.post("/decisions/bulk", data=form)
    assert {stored(database, case).state for case in cases} == {CaseState.DECIDED}


@pytest.mark.parametrize("query", ["campaign=x", "campaign=99999999999", "campaign=-1", "campaign=1"])
def test_a_campaign_that_is_none_breaks_nothing(sign_in: SignIn, query: str) -> None:
    client, _ = sign_in(Role.REVIEWER)

    assert client.get(f"/queue?{query}").status_code == 200


def test_only_an_admin_turns_a_certificate_on(
    sign_in: SignIn, database: Database, settings: Settings
) -> None:
    now = datetime.now(UTC)
    with database.transaction() as session:
        found = Found(Promise(), Tried(0.1, 600, 0, 0.008), ())
        number = zones.issue(
            session, "f1", None, found, since=now - timedelta(days=9), until=now, actor="operator"
        )
    chosen = settings.model_copy(update={"blind_first_share": 0.1})
    with TestClient(create_app(chosen), follow_redirects=False) as client:
        statuses: dict[Role, int] = {}
        for role in (Role.REVIEWER, Role.LEAD, Role.ADMIN):
            entered = Accounts(database, chosen).sign_in_as(enrolled(database, role.value, role))
            client.cookies.set(COOKIE, entered.secret)
            form = {"csrf": entered.csrf, "on": "1"}
            statuses[role] = client.post(f"/certificates/{number}/use", data=form).status_code
        page = client.get("/certificates").text

        assert statuses == {Role.REVIEWER: 403, Role.LEAD: 403, Role.ADMIN: 303}
        assert "at most 1 % are not bona fide" in page
        assert 'data-use="off"' in page

        client.post(f"/certificates/{number}/use", data={"csrf": entered.csrf})
        assert 'data-use="off"' not in client.get("/certificates").text
