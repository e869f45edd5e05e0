"""How bundles stand and compare, for leads and for Prometheus."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest
from fastapi.testclient import TestClient

from moderation.accounts.accounts import Accounts
from moderation.cases import Stage
from moderation.database.connection import Database
from moderation.decisions import Outcome, is_blind_first
from moderation.errors import DatabaseUnavailable, NotAllowed, RequestRefused, RolloutRefused
from moderation.people import Person, Role
from moderation.rollouts.rollout_rows import promote
from moderation.rollouts.standings import Bundles, TrialWatch
from moderation.settings import Settings
from moderation.web.app import create_app
from moderation.web.sessions import COOKIE
from tests.builders import a_verdict, bona_fide
from tests.integration.beside import NEW, OLD, both, on_trial, said
from tests.integration.conftest import enrolled, ready
from tests.integration.deciding import a_review, decide


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=5)


# --- how they stand


def test_what_serves_comes_first_then_what_is_on_trial(database: Database, lead: Person) -> None:
    on_trial(database, share=0.05, shadow=0.2)
    both(database, a_verdict(), bona_fide())
    ready(database, analysis=said(a_verdict(), by=OLD))

    seen = Bundles(database).standings(lead, now=soon())

    assert (seen.workers, seen.rollout.share, seen.rollout.shadow) == (1, 0.05, 0.2)
    old, new = seen.bundles
    assert (old.bundle.fingerprint, old.serving, old.holding, old.on_trial, old.analyses) == (
        OLD,
        1,
        1,
        False,
        2,
    )
    assert (new.bundle.fingerprint, new.serving, new.holding, new.on_trial, new.analyses) == (
        NEW,
        0,
        1,
        True,
        1,
    )
    assert seen.serving == old.bundle
    assert seen.candidate == new.bundle


def test_why_a_bundle_is_not_used_is_said(database: Database, lead: Person) -> None:
    on_trial(database, stopped="it fails")

    seen = Bundles(database).standings(lead, now=soon())

    assert [one.stopped for one in seen.bundles] == [(), ("it fails",)]


def test_without_a_worker_nothing_serves(database: Database, lead: Person) -> None:
    seen = Bundles(database).standings(lead, now=soon())

    assert (seen.workers, seen.bundles, seen.serving, seen.candidate) == (0, (), None, None)


# --- two of them


def test_leads_compare_two_bundles_and_reviewers_do_not(database: Database, lead: Person) -> None:
    on_trial(database)
    both(database, a_verdict(), bona_fide())

    seen = Bundles(database).compare(lead, OLD, NEW, now=soon())

    assert (seen.first.name, seen.second.name, seen.comparison.n, seen.cut) == ("old 1", "new 2", 1, False)
    reviewer = enrolled(database, "Ada")
    with pytest.raises(NotAllowed):
        Bundles(database).compare(reviewer, OLD, NEW, now=soon())
    with pytest.raises(NotAllowed):
        Bundles(database).standings(reviewer, now=soon())


@pytest.mark.parametrize(
    ("first", "second", "days", "refused"),
    [
        pytest.param(OLD, OLD, 7, RequestRefused, id="with itself"),
        pytest.param(OLD, "2" * 64, 7, RolloutRefused, id="with one that nobody ever had"),
        pytest.param(OLD, NEW, 0, RequestRefused, id="of no time"),
        pytest.param(OLD, NEW, 10_000, RequestRefused, id="of all time"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    database: Database, lead: Person, first: str, second: str, days: int, refused: type[Exception]
) -> None:
    on_trial(database)

    with pytest.raises(refused):
        Bundles(database).compare(lead, first, second, now=soon(), days=days)


# --- the page


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Some cases are judged blind."""
    return settings.model_copy(update={"blind_first_share": 0.2})


@pytest.fixture
def page(settings: Settings, database: Database) -> Iterator[TestClient]:
    """The console, with a lead signed in."""
    accounts = Accounts(database, settings)
    katherine = accounts.add_person("k@example.org", "Katherine", Role.LEAD, "a long enough password")
    with TestClient(create_app(settings), follow_redirects=False) as client:
        client.cookies.set(COOKIE, accounts.sign_in_as(katherine).secret)
        yield client


def test_the_page_offers_nothing_to_compare_until_there_are_two(page: TestClient) -> None:
    reply = page.get("/bundles")

    assert reply.status_code == 200
    assert 'class="empty"' in reply.text
    assert "<select" not in reply.text


def test_the_page_compares_what_serves_with_what_is_on_trial(
    page: TestClient, database: Database, settings: Settings
) -> None:
    on_trial(database)
    review, ada = a_review(database, settings), enrolled(database)
    case_id = both(database, a_verdict(score=0.9), bona_fide(0.1))
    decide(review, database, ada, case_id, Outcome.BONA_FIDE)
    both(database, a_verdict(score=0.9), a_verdict(score=0.8))

    reply = page.get("/bundles")

    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", reply.text))
    assert "Same label 50 % 9 % to 91 %; 1 of 2" in shown
    assert f"/cases/{case_id}" in reply.text
    assert 'data-pictures="2"' in reply.text
    assert 'data-disagreed="1"' in reply.text


def test_the_page_does_not_give_away_what_is_to_be_judged_blind(
    page: TestClient, database: Database, settings: Settings
) -> None:
    on_trial(database)
    share = settings.blind_first_share
    hidden, open_ = set[UUID](), None
    while not hidden or open_ is None:
        case_id = both(database, a_verdict(), bona_fide())
        if is_blind_first(case_id, share):
            hidden.add(case_id)
        else:
            open_ = case_id

    reply = page.get("/bundles")

    assert f"/cases/{open_}" in reply.text
    assert not any(f"/cases/{case_id}" in reply.text for case_id in hidden)
    assert f'data-left-out="{len(hidden)}"' in reply.text


@pytest.mark.parametrize("stage", [Stage.ESCALATED, Stage.APPEAL])
def test_the_page_hides_nothing_that_nobody_judges_blind(
    page: TestClient, database: Database, settings: Settings, stage: Stage
) -> None:
    on_trial(database)
    review, ada = a_review(database, settings), enrolled(database)
    case_id = both(database, a_verdict(), bona_fide())
    while not is_blind_first(case_id, settings.blind_first_share):
        case_id = both(database, a_verdict(), bona_fide())
    escalated = stage is Stage.ESCALATED
    decide(review, database, ada, case_id, Outcome.ESCALATE if escalated else Outcome.DEEPFAKE)
    if not escalated:
        review.appeal(case_id, "It is me.", actor="platform:x")

    reply = page.get("/bundles")

    assert f"/cases/{case_id}" in reply.text


def test_the_page_refuses_what_it_does_not_know(page: TestClient, database: Database) -> None:
    on_trial(database)

    assert page.get(f"/bundles?first={OLD}&second={'2' * 64}").status_code == 422
    assert 'data-pictures=""' in page.get(f"/bundles?first={OLD}&second={OLD}").text
    assert page.get("/bundles?days=0").status_code == 404


# --- Prometheus


def test_the_candidate_is_compared_with_what_serves_for_prometheus(
    api: TestClient, database: Database, settings: Settings
) -> None:
    on_trial(database)
    review, ada = a_review(database, settings), enrolled(database)
    decide(review, database, ada, both(database, a_verdict(score=0.9), bona_fide(0.1)), Outcome.BONA_FIDE)
    both(database, a_verdict(score=0.9), a_verdict(score=0.8))

    scraped = api.get("/metrics").text

    assert "bonafide_candidate_pictures 2.0" in scraped
    assert "bonafide_candidate_agreement 0.5" in scraped
    assert re.search(r"^bonafide_candidate_score_shift -0.4\d+$", scraped, re.MULTILINE)
    assert "bonafide_candidate_engine_ratio 2.0" in scraped
    assert 'bonafide_candidate_overturned{bundle="serving"} 1.0' in scraped
    assert 'bonafide_candidate_overturned{bundle="candidate"} 0.0' in scraped


def test_without_a_trial_prometheus_is_told_of_none(api: TestClient, database: Database) -> None:
    on_trial(database)
    both(database, a_verdict(), bona_fide())
    with database.transaction() as session:
        promote(session, actor="operator")

    assert not re.search(
        r"^bonafide_candidate_(pictures|agreement|score|engine|overturned)",
        api.get("/metrics").text,
        re.MULTILINE,
    )


def test_what_is_on_trial_is_compared_once_a_minute(database: Database) -> None:
    on_trial(database)
    both(database, a_verdict(), bona_fide())
    watch, now = TrialWatch(database), soon()

    def pictures(later: float) -> int:
        found = watch.latest(now=now + timedelta(seconds=later))
        assert found is not None
        return found.comparison.n

    first = pictures(0)
    both(database, a_verdict(), bona_fide())

    assert [first, pictures(59), pictures(60)] == [1, 1, 2]


def test_a_comparison_that_failed_is_not_tried_again_at_once(database: Database, database_url: str) -> None:
    on_trial(database)
    both(database, a_verdict(), bona_fide())
    watch, now = TrialWatch(database), soon()

    with psycopg.connect(database_url) as holder:
        holder.execute("LOCK TABLE analyses")
        with pytest.raises(DatabaseUnavailable):
            watch.latest(now=now)

    assert watch.latest(now=now + timedelta(seconds=1)) is None
    assert watch.latest(now=now + timedelta(seconds=60)) is not None
