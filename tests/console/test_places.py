"""What a moderator looks for: cases by what is in hand, what stands aside, what was decided, and whom to shut out."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from moderation.accounts.accounts import Accounts
from moderation.analysis import Abstain, Label, Verdict
from moderation.cases import CaseState, ImageRef
from moderation.database.connection import Database
from moderation.database.outbox import Kind
from moderation.database.renditions import Renditions, record_renditions
from moderation.decisions import Outcome
from moderation.errors import SignInRefused
from moderation.people import Person, Role
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.triage import PRIORITY_SECONDS
from moderation.web.app import create_app
from moderation.web.console.words import span
from moderation.web.sessions import COOKIE
from moderation.webhooks.endpoints import Webhooks
from tests.builders import a_face_analysis, a_verdict, an_analysis, bona_fide
from tests.integration.conftest import ready, refused, stored
from tests.integration.deciding import a_review, decide

PASSWORD = "a long enough password"
Sit = Callable[[Person], TestClient]
COPIED = Renditions(b"small", b"a copy")


@pytest.fixture
def accounts(database: Database, settings: Settings) -> Accounts:
    return Accounts(database, settings)


@pytest.fixture
def rosa(accounts: Accounts) -> Person:
    return accounts.add_person("rosa@example.org", "Rosa Diaz", Role.REVIEWER, PASSWORD)


@pytest.fixture
def lin(accounts: Accounts) -> Person:
    return accounts.add_person("lin@example.org", "Lin Wei", Role.LEAD, PASSWORD)


@pytest.fixture
def ada(accounts: Accounts) -> Person:
    return accounts.add_person("ada@example.org", "Ada Byron", Role.ADMIN, PASSWORD)


@pytest.fixture
def sit(settings: Settings, accounts: Accounts) -> Iterator[Sit]:
    plain = settings.model_copy(update={"blind_first_share": 0.0, "second_review_share": 0.0})
    with TestClient(create_app(plain), follow_redirects=False) as client:

        def sit_down(person: Person) -> TestClient:
            client.cookies.set(COOKIE, accounts.sign_in_as(person).secret)
            return client

        yield sit_down


def _rows(page: Any) -> list[str]:
    """Ids of the cases that a page lists, in order."""
    return re.findall(r'<th scope="row" class="case-cell">\s*<a href="/cases/([0-9a-f-]{36})', page.text)


def _token(page: Any) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None
    return found[1]


def test_a_case_is_found_by_each_of_its_marks_at_an_address_of_its_own(
    sit: Sit, rosa: Person, database: Database
) -> None:
    ready(database, external_id="other", image=ImageRef("flagged", "other.jpg"))
    case_id = ready(
        database,
        source="profiles",
        external_id="upload 42",
        image=ImageRef("flagged", "a key & more.jpg"),
        context={"user": "u-4711"},
    )
    reviewer = sit(rosa)

    for field, said in (
        ("id", str(case_id)),
        ("id", str(case_id)[:18]),
        ("id", case_id.hex[-8:]),
        ("external_id", "upload 42"),
        ("key", "a key & more.jpg"),
        ("key", "s3://flagged/a key & more.jpg"),
        ("source", "profiles"),
        ("context", "u-4711"),
    ):
        for asked in ({"in": field, "q": said}, {"q": said}):
            page = reviewer.get("/search", params=asked)
            assert str(case_id) in _rows(page), asked


def test_a_case_page_leads_to_searches_of_its_marks(sit: Sit, rosa: Person, database: Database) -> None:
    case_id = ready(database, external_id="upload 42")
    reviewer = sit(rosa)

    page = reviewer.get(f"/cases/{case_id}").text

    links = re.findall(r'href="(/search\?[^"]+)"', page)
    assert len(links) == 3
    for link in links:
        assert str(case_id) in _rows(reviewer.get(link.replace("&amp;", "&"))), link
    assert str(case_id) in page


def test_a_search_gives_away_no_verdict_that_is_hidden(
    settings: Settings, accounts: Accounts, rosa: Person, database: Database
) -> None:
    case_id = ready(database)
    blind = settings.model_copy(update={"blind_first_share": 1.0})
    with TestClient(create_app(blind), cookies={COOKIE: accounts.sign_in_as(rosa).secret}) as client:
        page = client.get("/search", params={"q": str(case_id)})

    assert _rows(page) == [str(case_id)]
    assert re.findall(r'class="verdict-word (\w+)"', page.text) == ["hidden"]


def test_a_line_of_the_queue_says_why_it_stands_there_unless_that_gives_its_verdict_away(
    settings: Settings, accounts: Accounts, rosa: Person, database: Database
) -> None:
    ready(database, priority=50)
    secret = accounts.sign_in_as(rosa).secret
    told: dict[float, list[str]] = {}
    for share in (0.0, 1.0):
        shown = settings.model_copy(update={"blind_first_share": share})
        with TestClient(create_app(shown), cookies={COOKIE: secret}) as client:
            page = client.get("/queue").text
        told[share] = re.findall(r'<td class="wide right" title="([^"]+)"', page)

    assert told[1.0] == []
    (words,) = told[0.0]
    assert span(PRIORITY_SECONDS * 50) in words


@pytest.mark.parametrize("q", ["", "nobody knows this", "\x00", "%00", "x" * 1200, "' OR 1=1 --"])
def test_what_is_known_by_nobody_says_what_to_do_next(
    sit: Sit, rosa: Person, database: Database, q: str
) -> None:
    ready(database)

    page = sit(rosa).get("/search", params={"q": q})

    assert page.status_code == 200
    assert _rows(page) == []


def _faceless(database: Database) -> Any:
    nothing = Verdict(label=Label.UNDETERMINED, abstain=Abstain.NO_FACE)
    return ready(database, analysis=replace(an_analysis(), verdict=nothing, faces=()))


def test_the_queue_feeds_what_can_be_judged_and_the_rest_has_a_place_of_its_own(
    sit: Sit, rosa: Person, database: Database
) -> None:
    no_face, broken, shown = _faceless(database), refused(database, priority=90), ready(database)
    reviewer = sit(rosa)

    queue, aside = reviewer.get("/queue"), reviewer.get("/queue?aside=yes")
    by_none = reviewer.get("/queue?verdict=none")
    taken = reviewer.post("/queue/next", data={"csrf": _token(queue), "from": ""})

    assert _rows(queue) == [str(shown)]
    assert set(_rows(aside)) == {str(no_face), str(broken)}
    assert _rows(by_none) == [str(broken)]
    assert taken.headers["location"] == f"/cases/{shown}"
    taken = reviewer.post("/queue/next", data={"csrf": _token(queue), "from": "aside=yes"})
    assert taken.headers["location"].startswith(f"/cases/{broken}?from=")


def test_what_stands_aside_is_decided_together_by_a_lead(sit: Sit, lin: Person, database: Database) -> None:
    both = [_faceless(database), refused(database)]
    lead = sit(lin)
    chosen = [f"{case_id}:{stored(database, case_id).version}" for case_id in both]
    form = {"csrf": _token(lead.get("/queue?aside=yes")), "case": chosen, "outcome": "cannot_tell"}

    asked = lead.post("/decisions/confirm", data=form)
    lead.post("/decisions/bulk", data={**form, "count": "2", "reason": "no face to judge"})

    assert "No verdict: image corrupt" in asked.text
    assert {stored(database, case_id).state for case_id in both} == {CaseState.DECIDED}


def test_deciding_together_shows_the_verdict_and_the_score_of_each(
    sit: Sit, lin: Person, database: Database
) -> None:
    case_id = ready(
        database, analysis=an_analysis(faces=(replace(a_face_analysis(), verdict=a_verdict(score=0.87)),))
    )
    lead = sit(lin)
    chosen = f"{case_id}:{stored(database, case_id).version}"

    asked = lead.post("/decisions/confirm", data={"csrf": _token(lead.get("/queue")), "case": chosen})

    assert "Likely deepfake" in asked.text
    assert "0.87" in asked.text


def test_lists_of_decided_cases_say_what_was_decided_by_whom_and_when(
    sit: Sit, rosa: Person, database: Database, settings: Settings
) -> None:
    case_id = ready(database)
    decision = decide(a_review(database, settings), database, rosa, case_id, Outcome.BONA_FIDE)
    reviewer = sit(rosa)

    for page in (reviewer.get("/queue?state=decided"), reviewer.get(f"/search?q={case_id}")):
        assert _rows(page) == [str(case_id)]
        assert re.search(
            r'<td class="wide"><span class="verdict-word bona_fide">.*?Bona fide</span>', page.text, re.DOTALL
        )
        assert "Rosa Diaz</span></td>" in page.text
    when = reviewer.get("/queue?state=decided").text
    assert f"{decision.created_at:%Y-%m-%d %H:%M:%S} UTC" in when


def test_several_faces_are_numbered_on_the_picture_with_a_line_each(
    sit: Sit, rosa: Person, database: Database
) -> None:
    two = (a_face_analysis(), replace(a_face_analysis(), verdict=bona_fide()))
    case_id = ready(database, analysis=an_analysis(faces=two))

    page = sit(rosa).get(f"/cases/{case_id}").text

    assert re.findall(r'<text [^>]*text-anchor="middle">(\d)</text>', page) == ["1", "2"]
    assert re.findall(r'<span class="face-key" aria-hidden="true">(\d)</span>', page) == ["1", "2"]
    assert page.count("data-decides") == 1


def test_lists_show_small_pictures_as_their_reader_wants_them_and_note_that_they_did(
    sit: Sit, lin: Person, accounts: Accounts, database: Database
) -> None:
    pictured, bare = ready(database), ready(database)
    with database.transaction() as session:
        small = Renditions(b"a small picture", None)
        record_renditions(session, pictured, small, sha256=an_analysis().picture.sha256)
    lead = sit(lin)
    address = f"/cases/{pictured}/thumbnail"
    chosen = [f"{case_id}:{stored(database, case_id).version}" for case_id in (pictured, bare)]
    asked = {"csrf": _token(lead.get("/queue")), "case": chosen}

    lists = [
        lead.get("/queue").text,
        lead.get("/search", params={"q": str(pictured)[:8]}).text,
        lead.post("/decisions/confirm", data=asked).text,
    ]
    for page in lists:
        assert f'<span class="thumb blurred grey"><img src="{address}"' in page
        assert f"/cases/{bare}/thumbnail" not in page
    accounts.set_preferences(lin, replace(lin.preferences, blur=False, greyscale=False))
    assert f'<span class="thumb"><img src="{address}"' in lead.get("/queue").text

    assert lead.get(address).content == b"a small picture"
    with database.transaction() as session:
        noted = session.execute(text("SELECT case_id, person_id, kind FROM views")).all()
    assert [tuple(one) for one in noted] == [(pictured, lin.id, "thumbnail")]


def test_somebody_is_shut_out_only_after_it_was_asked_about(
    sit: Sit, ada: Person, rosa: Person, accounts: Accounts, database: Database, settings: Settings
) -> None:
    admin = sit(ada)
    case_id = ready(database)
    a_review(database, settings).claim(rosa, case_id)
    people = admin.get("/people")
    assert f'href="/people/{rosa.id}/disable"' in people.text
    assert f'action="/people/{rosa.id}/disable"' not in people.text

    asked = admin.get(f"/people/{rosa.id}/disable")

    assert "Disable Rosa Diaz?" in asked.text
    assert accounts.sign_in(rosa.email, PASSWORD, address="127.0.0.1")
    admin.post(f"/people/{rosa.id}/disable", data={"csrf": _token(asked)})
    with pytest.raises(SignInRefused):
        accounts.sign_in(rosa.email, PASSWORD, address="127.0.0.1")
    assert a_review(database, settings).claim(ada, case_id).person_id == ada.id


def test_an_endpoint_is_removed_only_after_it_was_asked_about(
    sit: Sit, ada: Person, rosa: Person, database: Database, settings: Settings
) -> None:
    private = settings.model_copy(update={"webhook_private_targets": True})
    webhooks = Webhooks(database, private)
    endpoint = webhooks.add("http://127.0.0.1:9/told", list(Kind)).endpoint
    admin = sit(ada)
    address = f"/webhooks/{endpoint.id}/remove"
    log = admin.get(f"/webhooks/{endpoint.id}").text
    assert f'href="{address}"' in log
    assert f'action="{address}"' not in log

    asked = admin.get(address)

    assert f"Remove {endpoint.url}?" in asked.text
    assert len(webhooks.endpoints()) == 1
    assert admin.post(address, data={"csrf": _token(asked)}).headers["location"] == "/webhooks"
    assert webhooks.endpoints() == []
    assert admin.get(address).status_code == 404
    assert sit(rosa).get(address).status_code == 403


def test_a_script_is_sent_what_browsers_show(
    sit: Sit, rosa: Person, database: Database, storage: Storage
) -> None:
    tiff = storage.put_image("places/a.tiff", b"a TIFF", "image/tiff")
    jpeg = storage.put_image("places/a.jpg", b"a JPEG", "image/jpeg")
    copied, plain = ready(database, image=tiff), ready(database, image=jpeg)
    with database.transaction() as session:
        record_renditions(session, copied, COPIED, sha256=an_analysis().picture.sha256)
    reviewer = sit(rosa)

    sent = [reviewer.get(f"/cases/{one}/picture/bytes") for one in (copied, plain)]

    assert [reply.content for reply in sent] == [b"a copy", b"a JPEG"]
    assert {reply.headers["content-type"] for reply in sent} == {"application/octet-stream"}


def test_a_kind_that_no_browser_shows_says_so_when_its_copy_is_gone(
    sit: Sit, rosa: Person, database: Database
) -> None:
    facts = replace(an_analysis().picture, format="TIFF")
    case_id = ready(database, analysis=an_analysis(picture=facts))
    reviewer = sit(rosa)

    assert 'data-copy="gone"' in reviewer.get(f"/cases/{case_id}").text
    with database.transaction() as session:
        record_renditions(session, case_id, COPIED, sha256=facts.sha256)
    assert re.findall('data-copy="([a-z]+)"', reviewer.get(f"/cases/{case_id}").text) == ["shown"]


def test_whoever_comes_through_the_identity_provider_is_asked_for_no_password(
    sit: Sit, ada: Person, accounts: Accounts
) -> None:
    person, _ = accounts.invite(ada, "new@example.org", "New", Role.REVIEWER)

    assert sit(person).get("/queue").status_code == 200


def test_a_first_password_opens_nothing_but_the_page_to_choose_another(
    sit: Sit, ada: Person, accounts: Accounts
) -> None:
    person, first = accounts.invite(ada, "new@example.org", "New", Role.REVIEWER)
    client = sit(ada)
    client.cookies.set(COOKIE, accounts.sign_in(person.email, first, address="127.0.0.1").secret)

    for path in ("/queue", "/preferences", "/decisions"):
        assert client.get(path).headers["location"] == "/password/first"
    page = client.get("/password/first")
    form = {"csrf": _token(page), "new": "one of my very own", "again": "one of my very own"}
    assert client.post("/password/first", data={**form, "new": first, "again": first}).status_code == 422
    assert client.post("/password/first", data={**form, "again": "another"}).status_code == 422
    assert client.post("/password/first", data=form).headers["location"] == "/queue"

    assert client.get("/queue").status_code == 200
    assert client.get("/password/first").headers["location"] == "/queue"
    assert (
        accounts.sign_in(person.email, "one of my very own", address="127.0.0.1").person.first_password
        is False
    )
