"""A platform takes an image back: its case ends, whoever has it in hand, and nobody looks at its picture any more."""

from collections.abc import Callable
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from moderation.accounts.accounts import Accounts
from moderation.accounts.keys import add_key
from moderation.archive.erasure import erase_case, erase_past
from moderation.cases import CaseState
from moderation.database.analyses import record_analysis
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.database.questions import insert_question, questions_of
from moderation.database.queue import QueueFilter, queue_page
from moderation.database.renditions import Renditions, find_thumbnail, record_renditions
from moderation.decisions import Judgement, Outcome
from moderation.dispatch import Publisher
from moderation.errors import CaseWithdrawn, LeaseLost, StaleCase
from moderation.intake import Intake
from moderation.local import as_role
from moderation.people import Role
from moderation.questions import Questions
from moderation.rollouts.rerun_rows import begin_rerun, insert_reruns
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.web.app import create_app
from moderation.web.sessions import COOKIE
from moderation.webhooks.endpoints import Webhooks
from tests.builders import an_analysis, new_id
from tests.integration.conftest import accepted, begun, enrolled, ready, refused, stored
from tests.integration.deciding import a_review, decide


def _withdraw(api: TestClient, case_id: UUID) -> Any:
    return api.post(f"/v1/cases/{case_id}/withdraw")


def _problem(reply: Any) -> tuple[int, str]:
    return reply.status_code, reply.json()["code"]


def _analyzing(database: Database) -> UUID:
    case_id = accepted(database)
    assert begun(database, case_id) is not None
    return case_id


@pytest.mark.parametrize(
    ("made", "was"), [(accepted, "waiting"), (_analyzing, "analyzing"), (ready, "ready"), (refused, "ready")]
)
def test_a_case_that_nobody_decided_ends_and_its_log_says_so(
    api: TestClient, database: Database, made: Callable[[Database], UUID], was: str
) -> None:
    case_id = made(database)

    done, again = _withdraw(api, case_id), _withdraw(api, case_id)

    assert (done.status_code, again.status_code) == (200, 200)
    shown = done.json()
    assert (shown["state"], shown["decision"]) == ("withdrawn", None)
    assert shown["withdrawn_at"] is not None
    assert again.json() == shown
    with database.transaction() as session:
        chain = read_chain(session, case_id)
        assert queue_page(session, QueueFilter()) == []
        listed = queue_page(session, QueueFilter(state=CaseState.WITHDRAWN))
    assert chain.broken_at is None
    last = chain.events[-1]
    assert (last.kind, last.actor, last.body) == ("withdrawn", "platform:testers", {"was": was})
    assert [line.id for line in listed] == [case_id]
    assert [case["id"] for case in api.get("/v1/cases?state=withdrawn").json()["cases"]] == [str(case_id)]


def test_a_worker_that_has_it_loses_its_lease(api: TestClient, database: Database) -> None:
    case_id = accepted(database)
    lease = begun(database, case_id)
    assert lease is not None

    _withdraw(api, case_id)

    with pytest.raises(LeaseLost), database.transaction() as session:
        record_analysis(
            session, case_id, lease.lease_token, an_analysis(), actor="worker:w1", new_id=new_id()
        )
    assert stored(database, case_id).state is CaseState.WITHDRAWN
    assert begun(database, case_id) is None


def test_a_reviewer_who_has_it_is_told_and_decides_nothing(
    api: TestClient, database: Database, settings: Settings
) -> None:
    case_id, ada, review = ready(database), enrolled(database), a_review(database, settings)
    claim = review.claim(ada, case_id)

    _withdraw(api, case_id)

    judgement = Judgement(Outcome.BONA_FIDE, reason="hers")
    with pytest.raises(StaleCase, match="withdrawn"):
        review.decide(ada, case_id, token=claim.token, version=claim.version or 0, judgement=judgement)
    assert stored(database, case_id).state is CaseState.WITHDRAWN


def test_what_was_asked_about_it_ends_and_nothing_more_is(
    api: TestClient, database: Database, broker_url: str
) -> None:
    case_id = ready(database)
    with database.transaction() as session:
        insert_question(session, case_id, asked_by="platform:testers", question="Why?")
        insert_reruns(session, "another", [case_id], shadow=False, asked_by="operator")

    _withdraw(api, case_id)

    with database.transaction() as session:
        (asked,) = questions_of(session, case_id)
        rerun_id = session.scalars(text("SELECT id FROM reruns")).one()
        begun = begin_rerun(
            session, rerun_id, ["another"], actor="worker:w1", stale_after=60, quarantined=False
        )
        assert begun is None
        ended = session.execute(text("SELECT done_at IS NOT NULL, failure FROM reruns")).one()
    assert asked.failure == "withdrawn"
    assert tuple(ended) == (True, "withdrawn")
    with pytest.raises(CaseWithdrawn):
        Questions(database, Publisher(broker_url, at_most=1)).ask(case_id, "And?", actor="platform:t")


def test_a_case_that_was_decided_or_erased_is_not_taken_back(
    api: TestClient, database: Database, settings: Settings
) -> None:
    review, ada = a_review(database, settings), enrolled(database)
    decided, appealed, erased = ready(database), ready(database), ready(database)
    for case_id in (decided, appealed, erased):
        decide(review, database, ada, case_id, Outcome.BONA_FIDE)
    review.appeal(appealed, "look again", actor="platform:testers")
    with database.transaction() as session:
        assert erase_case(session, erased, actor="operator")

    assert _problem(_withdraw(api, decided)) == (409, "already_decided")
    assert _problem(_withdraw(api, appealed)) == (409, "already_decided")
    assert _problem(_withdraw(api, erased)) == (409, "case_erased")
    assert _problem(_withdraw(api, new_id())) == (404, "case_not_found")
    assert stored(database, appealed).state is CaseState.READY


def test_only_a_key_that_submits_takes_back(api: TestClient, database: Database) -> None:
    with database.transaction() as session:
        key = add_key(session, "another", ("read",))

    reply = api.post(f"/v1/cases/{new_id()}/withdraw", headers={"Authorization": f"Bearer {key}"})

    assert _problem(reply) == (403, "scope_missing")


def test_who_wants_to_know_is_told(api: TestClient, database: Database, settings: Settings) -> None:
    private = settings.model_copy(update={"webhook_private_targets": True})
    Webhooks(database, private).add("http://127.0.0.1:9/told")
    case_id = ready(database, external_id="photo-1")

    for _ in range(2):
        _withdraw(api, case_id)

    with database.transaction() as session:
        bodies = session.scalars(text("SELECT body FROM deliveries WHERE kind = 'case.withdrawn'")).all()
    (body,) = bodies
    assert body["type"] == "case.withdrawn"
    assert (body["data"]["external_id"], body["data"]["state"]) == ("photo-1", "withdrawn")


def test_its_pictures_go_and_no_worker_brings_them_back(api: TestClient, database: Database) -> None:
    case_id = ready(database)
    digest = an_analysis().picture.sha256
    with database.transaction() as session:
        record_renditions(session, case_id, Renditions(b"small", None), sha256=digest)

    _withdraw(api, case_id)

    with database.transaction() as session:
        assert find_thumbnail(session, case_id) is None
        record_renditions(session, case_id, Renditions(b"small", None), sha256=digest)
        assert find_thumbnail(session, case_id) is None


def test_it_is_erased_on_request_or_when_its_time_is_over(api: TestClient, database: Database) -> None:
    asked, old, new = (ready(database, external_id=str(n)) for n in range(3))
    for case_id in (asked, old, new):
        _withdraw(api, case_id)

    assert api.post(f"/v1/cases/{asked}/erase").json()["erased_at"] is not None
    with database.transaction() as session:
        session.execute(
            text("UPDATE cases SET withdrawn_at = now() - interval '31 days' WHERE id = :id"), {"id": old}
        )
        assert erase_past(session, [("*", 30)], actor="sweeper") == 1
    assert stored(database, old).erased_at is not None
    assert stored(database, new).erased_at is None
    assert stored(database, old).state is CaseState.WITHDRAWN


def test_the_process_that_serves_may_with_its_own_role(
    database: Database, database_url: str, storage: Storage, broker_url: str
) -> None:
    cases = _analyzing(database), ready(database)
    with database.transaction() as session:
        insert_question(session, cases[1], asked_by="platform:testers", question="Why?")
    publisher = Publisher(broker_url, at_most=1)
    with closing(Database(as_role(database_url, "bonafide_web"), pool_size=1)) as web:
        intake = Intake(web, storage, publisher)

        for case_id in cases:
            intake.withdraw(case_id, actor="platform:testers")
            assert stored(database, case_id).state is CaseState.WITHDRAWN


def test_its_page_shows_no_picture_and_says_why(
    api: TestClient, database: Database, settings: Settings
) -> None:
    accounts = Accounts(database, settings)
    rosa = accounts.add_person("rosa@example.org", "Rosa", Role.REVIEWER, "a long enough password")
    case_id = ready(database)
    _withdraw(api, case_id)

    with TestClient(create_app(settings), follow_redirects=False) as browser:
        browser.cookies.set(COOKIE, accounts.sign_in_as(rosa).secret)
        page = browser.get(f"/cases/{case_id}")
        pictures = [
            browser.get(f"/cases/{case_id}/{what}") for what in ("picture", "picture/bytes", "thumbnail")
        ]
        listed = browser.get("/queue?state=withdrawn")

    assert page.status_code == 200
    assert 'data-state="withdrawn"' in page.text
    assert f'action="/cases/{case_id}/' not in page.text
    assert f"/cases/{case_id}/picture" not in page.text
    assert [reply.status_code for reply in pictures] == [404, 404, 404]
    assert str(case_id) in listed.text
