"""Accepting: committed first, published after, and the same request answers the same case."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from sqlalchemy import text

from moderation.cases import ImageRef
from moderation.database.cases import NEXT_OF_EVERY_SOURCE, Opening, due_cases
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.dispatch import ANALYSIS_QUEUE, Publisher, WorkKind
from moderation.errors import BucketNotAllowed, IdempotencyConflict
from moderation.intake import PUBLISH_AT_ONCE, Accepted, Intake
from moderation.settings import Settings
from moderation.storage import Storage
from tests.builders import a_flag
from tests.integration import conftest as seeded
from tests.integration.conftest import let_time_pass


@pytest.fixture
def publisher(settings: Settings) -> Publisher:
    return Publisher(settings.broker_url.get_secret_value(), at_most=settings.messages_at_most)


@pytest.fixture
def intake(database: Database, storage: Storage, publisher: Publisher) -> Intake:
    return Intake(database, storage, publisher)


def _count(database: Database, table: str = "cases") -> int:
    with database.transaction() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}")) or 0


def test_a_flag_becomes_a_case_with_its_first_event_and_a_message(
    intake: Intake, database: Database, publisher: Publisher
) -> None:
    accepted = intake.receive(Opening(a_flag()), actor="platform:p")

    assert accepted.created
    assert publisher.depth() == 1
    with database.transaction() as session:
        (event,) = read_chain(session, accepted.id).events
    assert (event.kind, event.actor) == ("accepted", "platform:p")


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        pytest.param({"external_id": "upload-1"}, None, id="external id"),
        pytest.param({}, "key-1", id="idempotency key"),
        pytest.param({"external_id": "upload-1"}, "key-1", id="both"),
    ],
)
def test_the_same_request_answers_the_same_case(
    intake: Intake, database: Database, publisher: Publisher, flag: dict, key: str | None
) -> None:
    first = intake.receive(Opening(a_flag(**flag), key), actor="platform:p")
    second = intake.receive(Opening(a_flag(**flag), key), actor="platform:p")

    assert (second.id, second.created) == (first.id, False)
    assert _count(database) == _count(database, "events") == 1
    assert publisher.depth() == 1


@pytest.mark.parametrize(
    ("flag", "key"),
    [({"external_id": "upload-1"}, None), ({}, "key-1")],
    ids=["external id", "idempotency key"],
)
def test_the_same_key_with_another_body_is_refused(intake: Intake, flag: dict, key: str | None) -> None:
    intake.receive(Opening(a_flag(**flag), key), actor="platform:p")

    with pytest.raises(IdempotencyConflict, match="another body"):
        intake.receive(Opening(a_flag(**flag, reason="something else"), key), actor="platform:p")


def test_two_sources_may_use_the_same_ids(intake: Intake, database: Database) -> None:
    for source in ("avatars", "posts"):
        intake.receive(Opening(a_flag(source=source, external_id="1"), "key"), actor="platform:p")

    assert _count(database) == 2


def test_many_at_once_with_the_same_key_open_one_case(intake: Intake, database: Database) -> None:
    flag = a_flag(external_id="upload-1")

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda _: intake.receive(Opening(flag), actor="p"), range(32)))

    assert len({outcome.id for outcome in outcomes}) == 1
    assert sum(outcome.created for outcome in outcomes) == 1
    assert _count(database) == 1


def test_a_bucket_that_is_not_ours_is_refused_at_the_door(intake: Intake, database: Database) -> None:
    with pytest.raises(BucketNotAllowed):
        intake.receive(Opening(a_flag(image=ImageRef("secrets", "x"))), actor="platform:p")

    assert _count(database) == 0


def test_one_bad_item_of_a_batch_harms_no_other(intake: Intake, database: Database) -> None:
    flags = [
        a_flag(),
        a_flag(image=ImageRef("secrets", "x")),
        a_flag(external_id="1"),
        a_flag(external_id="1", reason="r"),
    ]

    outcomes = intake.receive_many([Opening(flag) for flag in flags], actor="platform:p")

    assert [type(outcome) for outcome in outcomes] == [
        Accepted,
        BucketNotAllowed,
        Accepted,
        IdempotencyConflict,
    ]
    assert _count(database) == 2


def test_a_large_batch_publishes_the_urgent_and_leaves_the_rest_to_the_sweeper(
    intake: Intake, database: Database, publisher: Publisher
) -> None:
    flags = [a_flag(priority=index % 100) for index in range(200)]

    intake.receive_many([Opening(flag) for flag in flags], actor="platform:p")

    assert publisher.depth() == PUBLISH_AT_ONCE
    with database.transaction() as session:
        assert len(due_cases(session, limit=1000, again_after=30)) == 200 - PUBLISH_AT_ONCE


def test_without_a_broker_the_case_is_accepted_and_the_sweeper_publishes_it(
    database: Database, storage: Storage, settings: Settings
) -> None:
    silent = Publisher("redis://127.0.0.1:9/0", at_most=100)

    accepted = Intake(database, storage, silent).receive(Opening(a_flag()), actor="platform:p")

    assert accepted.created
    with database.transaction() as session:
        assert due_cases(session, limit=10, again_after=30) == [accepted.id]


def test_a_message_that_was_lost_is_published_again_and_one_that_was_not_is_left(
    intake: Intake, database: Database, servers: object, settings: Settings
) -> None:
    accepted = intake.receive(Opening(a_flag()), actor="platform:p")
    redis.Redis.from_url(settings.broker_url.get_secret_value()).delete(ANALYSIS_QUEUE)

    with database.transaction() as session:
        assert due_cases(session, limit=10, again_after=30) == []
    let_time_pass(database, 31)
    with database.transaction() as session:
        assert due_cases(session, limit=10, again_after=30) == [accepted.id]


def test_the_urgent_are_published_first(intake: Intake, database: Database) -> None:
    flags = [a_flag(priority=priority) for priority in (5, 90, 40)]
    outcomes = intake.receive_many([Opening(flag) for flag in flags], actor="platform:p")
    ids = [outcome.id for outcome in outcomes if isinstance(outcome, Accepted)]
    let_time_pass(database, 60)

    with database.transaction() as session:
        assert due_cases(session, limit=10, again_after=30) == [ids[1], ids[2], ids[0]]


def test_redis_holds_no_more_messages_than_it_may(settings: Settings) -> None:
    small = Publisher(settings.broker_url.get_secret_value(), at_most=3)
    ids = [a.id for a in [_fresh() for _ in range(5)]]

    assert small.publish(WorkKind.ANALYSIS, ids) == 3
    assert small.publish(WorkKind.ANALYSIS, ids) == 0
    assert small.depth() == 3


def _fresh() -> Accepted:
    from moderation.cases import CaseState
    from tests.builders import new_id

    return Accepted(new_id(), CaseState.WAITING, created=True)


def test_a_source_that_floods_the_line_keeps_no_other_waiting(database: Database) -> None:
    for number in range(40):
        seeded.accepted(database, source="flood", external_id=f"f{number}", priority=50)
    quiet = [seeded.accepted(database, source="quiet", external_id=f"q{n}", priority=50) for n in range(3)]
    other = seeded.accepted(database, source="other", external_id="o", priority=50)

    with database.transaction() as session:
        due = due_cases(session, limit=10, again_after=30)

    assert len(due) == 10
    assert set(due[:3]) >= {quiet[0], other}
    assert set(due) >= {*quiet, other}


def test_what_nobody_else_needs_of_its_share_a_source_may_have(database: Database) -> None:
    flood = [seeded.accepted(database, source="flood", external_id=f"f{number}") for number in range(12)]
    seeded.accepted(database, source="quiet", external_id="q")

    with database.transaction() as session:
        due = due_cases(session, limit=10, again_after=30)

    assert len(set(flood) & set(due)) == 9


def test_a_sources_own_cases_come_by_priority(database: Database) -> None:
    ids = {p: seeded.accepted(database, source="one", external_id=str(p), priority=p) for p in (20, 90, 50)}

    with database.transaction() as session:
        assert due_cases(session, limit=2, again_after=30) == [ids[90], ids[50]]


def test_the_backlog_of_one_source_is_not_read_to_find_what_others_have(database: Database) -> None:
    backlog = text("""
        INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version)
        SELECT gen_random_uuid(), CASE WHEN n % 10000 = 0 THEN 'other-' || n ELSE 'flood' END, '', 'b', 'k', n % 100,
               'waiting', 1
        FROM generate_series(1, 30000) AS n
    """)
    values = {"again": 30, "least": 0, "most": 100, "limit": 50}
    with database.transaction() as session:
        session.execute(backlog)
        session.execute(text("ANALYZE cases"))
        plan = session.scalar(
            text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {NEXT_OF_EVERY_SOURCE.text}"), values
        )

    assert plan is not None
    assert "Seq Scan" not in str(plan)
    # Fifty rows are marked, each in all its indexes, those of the search too; reading the whole line would be tens of
    # thousands of pages more.
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 8000
