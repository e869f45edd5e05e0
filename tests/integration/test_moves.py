"""The life-cycle against a real Postgres: leases, fences, attempts, and the log of it all."""

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import event, text

from moderation.cases import CaseState, Refusal
from moderation.database.analyses import find_analysis_of_bytes, record_analysis, shown_analyses
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.database.moves import (
    expire_leases,
    must_be_quarantined,
    refuse_case,
    release_case,
    retry_case,
)
from moderation.database.operations import take_sweep_lock
from moderation.database.work import CASES
from moderation.errors import LeaseLost
from tests.builders import a_face_analysis, an_analysis, an_artifact, new_id
from tests.integration.conftest import accepted, begun, let_time_pass, stored


def _record(database: Database, case_id: UUID, token: int, **fields: object) -> UUID:
    new = new_id()
    with database.transaction() as session:
        record_analysis(session, case_id, token, an_analysis(**fields), actor="worker:w1", new_id=new)
    return new


def _sweep(database: Database, attempts_at_most: int = 5) -> tuple[int, int]:
    with database.transaction() as session:
        return expire_leases(session, actor="sweeper", attempts_at_most=attempts_at_most)


def _kinds(database: Database, case_id: UUID) -> list[str]:
    with database.transaction() as session:
        chain = read_chain(session, case_id)
    assert chain.broken_at is None
    return [one.kind for one in chain.events]


def test_a_chain_and_its_count_of_moves_are_read_at_one_moment(database: Database) -> None:
    case_id = accepted(database)

    def move(*_: object) -> None:
        begun(database, case_id)

    with database.transaction() as session:
        session.connection()
        event.listen(database.engine, "after_cursor_execute", move, once=True)
        chain = read_chain(session, case_id)

    assert chain.broken_at is None
    assert [one.kind for one in chain.events] == ["accepted"]


def test_a_waiting_case_goes_to_one_worker_only(database: Database) -> None:
    case_id = accepted(database)

    with ThreadPoolExecutor(8) as pool:
        leases = list(pool.map(lambda _: begun(database, case_id), range(16)))

    assert sum(lease is not None for lease in leases) == 1
    assert stored(database, case_id).attempts == 1


def test_an_analysis_makes_the_case_ready_and_comes_back_as_it_was(database: Database) -> None:
    case_id = accepted(database)
    lease = begun(database, case_id)
    assert lease is not None
    analysis = an_analysis(faces=(a_face_analysis(rationale=(an_artifact(), an_artifact(polygon=None))),))

    with database.transaction() as session:
        record_analysis(session, case_id, lease.lease_token, analysis, actor="worker:w1", new_id=new_id())

    assert stored(database, case_id).state is CaseState.READY
    with database.transaction() as session:
        assert shown_analyses(session, [case_id])[case_id].analysis == analysis
    assert _kinds(database, case_id) == ["accepted", "analysis_begun", "analyzed"]


def test_recording_a_second_time_changes_nothing(database: Database) -> None:
    """What an ambiguous commit leads to: it happened, the worker does not know, and tries again."""
    case_id = accepted(database)
    lease = begun(database, case_id)
    assert lease is not None
    _record(database, case_id, lease.lease_token)

    with pytest.raises(LeaseLost):
        _record(database, case_id, lease.lease_token)

    assert _kinds(database, case_id).count("analyzed") == 1


def test_nothing_is_written_under_a_lease_that_ran_out(database: Database) -> None:
    case_id = accepted(database)
    old = begun(database, case_id)
    assert old is not None
    let_time_pass(database, 61)
    assert _sweep(database) == (1, 0)
    let_time_pass(database, 10)
    new = begun(database, case_id, quarantined=True)
    assert new is not None

    with pytest.raises(LeaseLost):
        _record(database, case_id, old.lease_token)
    with pytest.raises(LeaseLost), database.transaction() as session:
        refuse_case(session, case_id, old.lease_token, Refusal("x", "y"), actor="worker:w1")
    with pytest.raises(LeaseLost), database.transaction() as session:
        release_case(session, case_id, old.lease_token, actor="worker:w1", why="x", due_in=0)
    with database.transaction() as session:
        assert CASES.renew(session, [old.lease_token], lease_seconds=60) == set()

    lease = stored(database, case_id).lease
    assert lease is not None
    assert lease.token == new.lease_token


def test_a_live_lease_is_left_alone(database: Database) -> None:
    case_id = accepted(database)
    begun(database, case_id)
    let_time_pass(database, 50)

    assert _sweep(database) == (0, 0)


def test_a_renewed_lease_lives_on(database: Database) -> None:
    case_id = accepted(database)
    lease = begun(database, case_id)
    assert lease is not None
    let_time_pass(database, 50)

    with database.transaction() as session:
        assert CASES.renew(session, [lease.lease_token, 999_999], lease_seconds=60) == {lease.lease_token}
    let_time_pass(database, 50)

    assert _sweep(database) == (0, 0)


def test_a_case_whose_lease_ran_out_is_quarantined_from_then_on(database: Database) -> None:
    case_id = accepted(database)
    begun(database, case_id)
    let_time_pass(database, 61)
    _sweep(database)
    let_time_pass(database, 10)

    assert begun(database, case_id, quarantined=False) is None
    with database.transaction() as session:
        assert must_be_quarantined(session, case_id)
    assert begun(database, case_id, quarantined=True) is not None


def test_a_case_that_always_kills_its_worker_goes_to_a_person_after_the_cap(database: Database) -> None:
    case_id = accepted(database)

    for attempt in range(1, 4):
        assert begun(database, case_id, quarantined=True) is not None
        let_time_pass(database, 61)
        returned, given_up = _sweep(database, attempts_at_most=3)
        assert (returned, given_up) == ((1, 0) if attempt < 3 else (0, 1))
        let_time_pass(database, 400)

    case = stored(database, case_id)
    assert case.state is CaseState.READY
    assert case.attempts == 3
    assert case.refusal is not None
    assert case.refusal.code == "attempts_exhausted"


def test_a_released_lease_costs_no_attempt_and_waits_its_delay(database: Database) -> None:
    case_id = accepted(database)
    lease = begun(database, case_id)
    assert lease is not None

    with database.transaction() as session:
        release_case(
            session, case_id, lease.lease_token, actor="worker:w1", why="storage_unavailable", due_in=30
        )

    assert stored(database, case_id).attempts == 0
    assert begun(database, case_id) is None
    let_time_pass(database, 31)
    assert begun(database, case_id) is not None


def test_a_refused_image_is_ready_with_the_reason_in_words(database: Database) -> None:
    case_id = accepted(database)
    lease = begun(database, case_id)
    assert lease is not None
    refusal = Refusal("image_corrupt", "the file ends in the middle")

    with database.transaction() as session:
        refuse_case(session, case_id, lease.lease_token, refusal, actor="worker:w1")

    case = stored(database, case_id)
    assert (case.state, case.refusal) == (CaseState.READY, refusal)


def test_only_a_case_without_a_verdict_is_retried(database: Database) -> None:
    refused, analyzed = accepted(database), accepted(database)
    for case_id in (refused, analyzed):
        lease = begun(database, case_id)
        assert lease is not None
        if case_id == refused:
            with database.transaction() as session:
                refuse_case(session, case_id, lease.lease_token, Refusal("c", "w"), actor="worker:w1")
        else:
            _record(database, case_id, lease.lease_token)

    with database.transaction() as session:
        assert retry_case(session, refused, actor="operator")
        assert not retry_case(session, analyzed, actor="operator")
        assert not retry_case(session, new_id(), actor="operator")

    assert stored(database, refused).state is CaseState.WAITING
    assert stored(database, refused).refusal is None


def test_the_same_bytes_are_found_under_the_same_fingerprint_only(database: Database) -> None:
    case_id = accepted(database)
    lease = begun(database, case_id)
    assert lease is not None
    _record(database, case_id, lease.lease_token, fingerprint="f1")

    with database.transaction() as session:
        assert find_analysis_of_bytes(session, "ab" * 32, "f1") is not None
        assert find_analysis_of_bytes(session, "ab" * 32, "f2") is None
        assert find_analysis_of_bytes(session, "cd" * 32, "f1") is None


def test_a_change_to_the_past_shows(database: Database, database_url: str) -> None:
    case_id = accepted(database)
    begun(database, case_id)
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE events DISABLE TRIGGER append_only")
        connection.execute("UPDATE events SET actor = 'platform:other' WHERE seq = 1")

    with database.transaction() as session:
        assert read_chain(session, case_id).broken_at == 1


def test_a_missing_event_shows(database: Database, database_url: str) -> None:
    case_id = accepted(database)
    lease = begun(database, case_id)
    assert lease is not None
    _record(database, case_id, lease.lease_token)
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE events DISABLE TRIGGER append_only")
        connection.execute("DELETE FROM events WHERE seq = 2")

    with database.transaction() as session:
        assert read_chain(session, case_id).broken_at == 2


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_log_that_was_cut_off_at_the_end_shows(database: Database, database_url: str, kept: int) -> None:
    case_id = accepted(database)
    lease = begun(database, case_id)
    assert lease is not None
    _record(database, case_id, lease.lease_token)
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE events DISABLE TRIGGER append_only")
        connection.execute("DELETE FROM events WHERE seq > %s", [kept])

    with database.transaction() as session:
        assert read_chain(session, case_id).broken_at == kept + 1


def test_one_sweeper_works_at_a_time(database: Database) -> None:
    with database.transaction() as first, database.transaction() as second:
        assert take_sweep_lock(first)
        assert not take_sweep_lock(second)
    with database.transaction() as later:
        assert take_sweep_lock(later)


def test_a_state_that_nobody_knows_cannot_be_stored(database_url: str, database: Database) -> None:
    accepted(database)
    with psycopg.connect(database_url) as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("UPDATE cases SET state = 'failed'")


def test_a_lease_is_whole_or_not_there(database: Database) -> None:
    accepted(database)
    with pytest.raises(Exception, match="cases_lease_whole"), database.transaction() as session:
        session.execute(text("UPDATE cases SET lease_token = 7"))
