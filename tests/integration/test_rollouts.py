"""Two bundles in one worker: who analyses what, what is shown, and what is analysed once more. Two scripted models."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

import psycopg
import pytest
import redis
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import Select, func, select, text
from sqlalchemy.orm import Session

from moderation.analysis import Basis, FaceAnalysis, Label, Verdict
from moderation.archive.erasure import erase_case
from moderation.cases import CaseState, ImageRef, Move
from moderation.database.analyses import insert_analysis, shown_analyses
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.database.moves import release_case, retry_case
from moderation.database.operations import beat
from moderation.database.outbox import Kind
from moderation.database.queue import QueueFilter, queue_page
from moderation.database.tables import BundleRow, RerunRow
from moderation.database.work import ATTEMPTS_AT_MOST, RERUNS, stale_seconds
from moderation.decisions import Judgement, Outcome
from moderation.dispatch import RERUN_QUEUE, Publisher, WorkKind
from moderation.errors import (
    BucketNotRead,
    DatabaseUnavailable,
    DecoderKilled,
    RolloutRefused,
    StaleCase,
    Unavailable,
)
from moderation.local import Addresses, as_role
from moderation.questions import Questions
from moderation.rollout import Action, Rollout
from moderation.rollouts import rollout_rows
from moderation.rollouts.rerun_rows import (
    HeldRerun,
    RerunFilter,
    begin_rerun,
    due_of,
    forgotten,
    insert_reruns,
    record_rerun,
    rerun_backlog,
)
from moderation.rollouts.reruns import ask_for_reruns, give_up_reruns
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.webhooks.endpoints import Webhooks
from tests.builders import a_verdict, an_analysis, bona_fide, new_id
from tests.fakes import ScriptedDetector
from tests.integration.conftest import accepted, begun, enrolled, ready, refused, stored
from tests.integration.deciding import a_review, decide
from worker.analysis import ANALYZE
from worker.answers import ANSWER
from worker.lifecycle import close_station, facts_of, open_station
from worker.reruns import RERUN
from worker.run import run, take
from worker.station import Station
from worker.sweeper import publish_due

OLD, NEW = "old-pipeline", "new-pipeline"
#: What each says of every face.
OLD_SAYS, NEW_SAYS = bona_fide(0.1), a_verdict(score=0.7)


def _model(says: Verdict, fingerprint: str, name: str) -> ScriptedDetector:
    return ScriptedDetector(
        lambda crop: FaceAnalysis(crop.face, says), fingerprint=fingerprint, bundle_name=name
    )


@pytest.fixture
def old() -> ScriptedDetector:
    return _model(OLD_SAYS, OLD, "dfa 1")


@pytest.fixture
def new() -> ScriptedDetector:
    return _model(NEW_SAYS, NEW, "dfa 2")


@pytest.fixture
def station(
    settings: Settings, database_url: str, old: ScriptedDetector, new: ScriptedDetector
) -> Iterator[Station]:
    """A worker that holds both, with its own role in Postgres."""
    worker = settings.model_copy(
        update={
            "database_url": SecretStr(as_role(database_url, "bonafide_worker")),
            "breaker_failures": 3,
            "breaker_seconds": 60.0,
        }
    )
    opened = open_station(worker, old, new)
    yield opened
    close_station(opened, why="the test ended")


@pytest.fixture
def sweeper(database_url: str) -> Iterator[Database]:
    opened = Database(as_role(database_url, "bonafide_sweeper"), pool_size=1)
    yield opened
    opened.close()


@pytest.fixture
def publisher(broker_url: str) -> Publisher:
    return Publisher(broker_url, at_most=1000)


@pytest.fixture
def broker(broker_url: str) -> Iterator[Any]:
    with redis.Redis.from_url(broker_url) as client:
        yield client


class Pictures:
    """Pictures in the store, of other bytes each: the same bytes are not analysed twice."""

    def __init__(self, storage: Storage, data: bytes) -> None:
        self._storage = storage
        self._data = data

    def one(self) -> ImageRef:
        key = f"rollouts/{new_id()}.jpg"
        return self._storage.put_image(key, self._data + key.encode(), "image/jpeg")


@pytest.fixture
def pictures(storage: Storage, samples: Path) -> Pictures:
    return Pictures(storage, (samples / "portrait-1.jpg").read_bytes())


def tell(database: Database, station: Station) -> None:
    """The worker's heartbeat."""
    station.orders.look()
    with database.transaction() as session:
        beat(session, "worker:here:1", facts_of(station))


def _publish_due(database: Database, publisher: Publisher, settings: Settings) -> int:
    """One look of the sweeper."""
    return publish_due(database, publisher, WorkKind.RERUN, settings).published


def trial(database: Database, **parts: float) -> None:
    with database.transaction() as session:
        rollout_rows.try_bundle(session, NEW, **{"share": 0.0, "shadow": 0.0} | parts, actor="operator")  # pyright: ignore[reportArgumentType]


def work(station: Station, case_id: UUID) -> None:
    """What the task does with a message, in a worker that has just looked who serves."""
    station.orders.look()
    run(station, ANALYZE, case_id)


def analyzed(station: Station, database: Database, pictures: Pictures, **fields: Any) -> UUID:
    case_id = accepted(database, image=pictures.one(), **fields)
    work(station, case_id)
    return case_id


def shown(database: Database, case_id: UUID) -> str:
    """Fingerprint of what is on show."""
    with database.transaction() as session:
        return shown_analyses(session, [case_id])[case_id].analysis.fingerprint


def made(database: Database, case_id: UUID) -> list[str]:
    """Fingerprints of everything that analysed the case."""
    query = text("SELECT fingerprint FROM analyses WHERE case_id = :id ORDER BY created_at, id")
    with database.transaction() as session:
        return list(session.scalars(query, {"id": case_id}))


def reruns(database: Database) -> list[Any]:
    with database.transaction() as session:
        return list(session.execute(text("SELECT * FROM reruns ORDER BY id")))


def ask(database: Database, *case_ids: UUID, shadow: bool = False, by: str = NEW) -> list[UUID]:
    """Ask for these to be analysed once more; the ids of the reruns that wait."""
    with database.transaction() as session:
        insert_reruns(session, by, case_ids, shadow=shadow, asked_by="operator")
    return [row.id for row in reruns(database) if row.done_at is None]


def later(database: Database, seconds: float) -> None:
    with database.transaction() as session:
        session.execute(
            text(
                "UPDATE reruns SET rung_at = rung_at - :d, begun_at = begun_at - :d, created_at = created_at - :d"
            ).bindparams(d=timedelta(seconds=seconds))
        )


# --- who analyses


def test_a_worker_tells_what_its_scores_were_calibrated_on_and_how_it_asks(
    settings: Settings, database_url: str, database: Database
) -> None:
    basis = Basis("labelled pictures of avatars", ("avatars",))
    worker = settings.model_copy(update={"database_url": SecretStr(as_role(database_url, "bonafide_worker"))})
    for told in (None, basis):
        opened = open_station(worker, ScriptedDetector(fingerprint=OLD, basis=told))
        close_station(opened, why="the test ended")

    with database.transaction() as session:
        assert rollout_rows.bases_of(session, [OLD, "another"]) == {OLD: basis}
        assert session.scalar(select(BundleRow.prompts).where(BundleRow.fingerprint == OLD)) == 1


def test_without_a_word_a_worker_uses_its_own_bundle(
    station: Station, database: Database, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)

    assert (made(database, case_id), shown(database, case_id)) == ([OLD], OLD)
    assert reruns(database) == []


def test_a_case_in_the_share_shows_what_the_candidate_says_and_a_second_attempt_does_not(
    station: Station, database: Database, pictures: Pictures
) -> None:
    trial(database, share=1.0)
    again = accepted(database, image=pictures.one())
    lease = begun(database, again)
    assert lease is not None
    with database.transaction() as session:
        release_case(session, again, lease.lease_token, actor="worker:w1", why="test", due_in=0)

    first = analyzed(station, database, pictures)
    work(station, again)

    assert (shown(database, first), stored(database, first).state) == (NEW, CaseState.READY)
    assert shown(database, again) == OLD


def test_a_shadow_is_analysed_behind_the_case_and_nothing_is_seen_of_it(
    station: Station,
    database: Database,
    sweeper: Database,
    settings: Settings,
    publisher: Publisher,
    pictures: Pictures,
) -> None:
    trial(database, shadow=1.0)
    tell(database, station)
    case_id = analyzed(station, database, pictures)
    before = stored(database, case_id)

    assert _publish_due(sweeper, publisher, settings) == 1
    assert publisher.depth(RERUN_QUEUE) == 1
    run(station, RERUN, reruns(database)[0].id)

    (row,) = reruns(database)
    assert (row.fingerprint, row.shadow, row.asked_by, row.failure) == (NEW, True, "rollout", None)
    assert row.done_at is not None
    assert sorted(made(database, case_id)) == [NEW, OLD]
    assert shown(database, case_id) == OLD
    assert stored(database, case_id) == before
    with database.transaction() as session:
        (line,) = queue_page(session, QueueFilter())
        assert line.score == OLD_SAYS.score
        assert [event.kind for event in read_chain(session, case_id).events][-1] == Move.RECORD


def test_what_the_candidate_made_itself_is_not_shadowed(
    station: Station, database: Database, pictures: Pictures
) -> None:
    trial(database, share=1.0, shadow=1.0)

    analyzed(station, database, pictures)

    assert reruns(database) == []


def test_promoting_and_rolling_back_take_hold_without_a_restart(
    station: Station, database: Database, pictures: Pictures
) -> None:
    trial(database, shadow=1.0)
    tell(database, station)
    before = analyzed(station, database, pictures)

    with database.transaction() as session:
        assert rollout_rows.promote(session, actor="operator", note="better") == Rollout(serving=NEW)
    promoted = analyzed(station, database, pictures)
    tell(database, station)
    with database.transaction() as session:
        (worker,) = rollout_rows.live_workers(session)
        rollout_rows.roll_back(session, actor="operator")
    after = analyzed(station, database, pictures)

    assert [shown(database, case_id) for case_id in (before, promoted, after)] == [OLD, NEW, OLD]
    assert (worker.serves, worker.own, set(worker.holds)) == (NEW, OLD, {OLD, NEW})
    with database.transaction() as session:
        log = rollout_rows.rollout_log(session)
    assert [(entry.action, entry.rollout.serving) for entry in log] == [
        (Action.TRY, None),
        (Action.PROMOTE, NEW),
        (Action.ROLLBACK, None),
    ]
    assert log[1].note == "better"


def test_a_worker_that_does_not_hold_what_was_promoted_goes_on_with_its_own(
    settings: Settings, database: Database, old: ScriptedDetector, pictures: Pictures
) -> None:
    trial(database)
    with database.transaction() as session:
        rollout_rows.promote(session, actor="operator", force=True)
    alone = open_station(settings, old)

    case_id = analyzed(alone, database, pictures)

    close_station(alone, why="the test ended")
    assert shown(database, case_id) == OLD


def test_orders_are_kept_while_postgres_is_away(
    station: Station, database: Database, database_url: str, servers: Addresses
) -> None:
    trial(database, share=0.5)
    station.orders.look()

    station.database.close()
    with psycopg.connect(servers.database_url, autocommit=True) as server:
        name = sql.Identifier(database_url.rsplit("/", 1)[1])
        server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        with pytest.raises(DatabaseUnavailable):
            station.orders.look()
        kept = station.orders.known
        server.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    station.orders.look()

    assert kept == station.orders.known == Rollout(candidate=NEW, share=0.5)


# --- what may be said


def test_nobody_promotes_what_no_worker_holds_or_uses(station: Station, database: Database) -> None:
    trial(database)
    with database.transaction() as session, pytest.raises(RolloutRefused, match="no live worker holds"):
        rollout_rows.promote(session, actor="operator")

    for _ in range(3):
        station.pipelines[NEW].breaker.failed("it fails")
    tell(database, station)
    with database.transaction() as session, pytest.raises(RolloutRefused, match="it fails"):
        rollout_rows.promote(session, actor="operator")

    with database.transaction() as session:
        assert rollout_rows.promote(session, actor="operator", force=True).serving == NEW


def test_the_log_is_only_ever_added_to(database: Database, station: Station) -> None:
    trial(database)

    with database.transaction() as session, pytest.raises(Exception, match="append-only"):
        session.execute(text("UPDATE rollouts SET share = 1"))


def test_a_bundle_is_found_by_its_name_or_by_how_its_fingerprint_begins(
    station: Station, database: Database
) -> None:
    with database.transaction() as session:
        rollout_rows.note_bundles(session, {"new-pipeline-of-last-year": "dfa 2"})
        with pytest.raises(RolloutRefused, match="several bundles"):
            rollout_rows.find_bundle(session, "dfa 2")
    tell(database, station)

    with database.transaction() as session:
        assert rollout_rows.find_bundle(session, "dfa 1").fingerprint == OLD
        assert rollout_rows.find_bundle(session, "dfa 2").fingerprint == NEW  # the one that a worker holds
        assert rollout_rows.find_bundle(session, "old-pipe").fingerprint == OLD
        for unknown in ("dfa 3", "old"):
            with pytest.raises(RolloutRefused, match="no worker"):
                rollout_rows.find_bundle(session, unknown)


# --- a candidate that fails


def test_a_candidate_that_stopped_leaves_its_share_to_what_serves(
    station: Station, database: Database, pictures: Pictures
) -> None:
    trial(database, share=1.0)
    for _ in range(3):
        station.pipelines[NEW].breaker.failed("it fails")

    case_id = analyzed(station, database, pictures)

    assert shown(database, case_id) == OLD
    assert station.serving.stopped is None
    assert facts_of(station)["bundles"][NEW]["stopped"] == "it fails"


def test_a_candidate_whose_engine_ended_leaves_its_share_to_what_serves(
    station: Station, database: Database, pictures: Pictures
) -> None:
    trial(database, share=1.0)
    station.pipelines[NEW].batcher.abandon("it hangs")

    case_id = analyzed(station, database, pictures)

    assert shown(database, case_id) == OLD


def test_a_message_for_a_case_that_is_done_spends_no_trial_of_a_stopped_model(
    settings: Settings, database: Database, old: ScriptedDetector, pictures: Pictures
) -> None:
    quick = settings.model_copy(update={"breaker_failures": 1, "breaker_seconds": 0.05})
    station = open_station(quick, old)
    done = analyzed(station, database, pictures)
    waiting = accepted(database, image=pictures.one())
    station.serving.breaker.failed("a fault")
    assert not station.serving.breaker.allows()
    while not station.serving.breaker.allows():
        pass

    work(station, done)
    work(station, waiting)

    close_station(station, why="the test ended")
    assert stored(database, waiting).state is CaseState.READY
    assert station.serving.breaker.why is None


def test_of_a_stopped_model_two_cases_begun_at_once_are_one_trial(
    settings: Settings, database: Database, old: ScriptedDetector, pictures: Pictures
) -> None:
    station = open_station(settings.model_copy(update={"breaker_failures": 1, "breaker_seconds": 60.0}), old)
    station.serving.breaker.failed("a fault")
    station.serving.breaker._try_at = 0.0  # pyright: ignore[reportPrivateUsage]  the pause is over
    one, two = (accepted(database, image=pictures.one()) for _ in range(2))

    with take(station, ANALYZE, one) as first:
        # Another thread that had looked before the first began: it takes the second, and gives it back.
        second = ANALYZE.take(station, two, quarantined=False)

    close_station(station, why="the test ended")
    assert (first is not None, second) == (True, None)
    assert (stored(database, two).state, stored(database, two).attempts) == (CaseState.WAITING, 0)


# --- once more


def test_an_analysis_anew_takes_the_place_of_the_one_on_show(
    station: Station, database: Database, settings: Settings, pictures: Pictures
) -> None:
    hook = Webhooks(database, settings.model_copy(update={"webhook_private_targets": True}))
    hook.add("http://127.0.0.1:9/hook", [Kind.ANALYZED])
    other, case_id = (analyzed(station, database, pictures) for _ in range(2))
    before = stored(database, case_id)

    run(station, RERUN, ask(database, case_id)[0])

    after = stored(database, case_id)
    assert shown(database, case_id) == NEW
    assert (after.state, after.version) == (CaseState.READY, before.version + 1)
    assert after.ready_at == before.ready_at
    with database.transaction() as session:
        chain = read_chain(session, case_id)
        first, second = queue_page(session, QueueFilter())
        told = list(session.scalars(text("SELECT body->'data'->>'fingerprint' FROM deliveries ORDER BY id")))
        rows = session.execute(text("SELECT queued_at, ready_at FROM cases WHERE id = :id"), {"id": case_id})
        queued, since = rows.one()
    event = chain.events[-1]
    assert chain.broken_at is None
    assert (event.kind, event.actor) == (Move.REANALYZE, station.actor)
    assert (event.body["fingerprint"], event.body["label"]) == (NEW, Label.DEEPFAKE)
    assert event.body["asked_by"] == "operator"
    assert event.body["replaces"] is not None
    assert (first.id, second.id) == (case_id, other)
    assert (first.label, first.score) == (Label.DEEPFAKE, NEW_SAYS.score)
    # What the new one is less sure of is seen sooner; it keeps its age.
    assert (since - queued).total_seconds() == pytest.approx(3600 * 0.6, abs=1)
    assert told == [OLD, OLD, NEW]


def test_a_decided_case_shows_the_new_analysis_and_the_decision_stays_as_it_was(
    station: Station, database: Database, settings: Settings, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    decision = decide(a_review(database, settings), database, enrolled(database), case_id, Outcome.BONA_FIDE)
    query = text("SELECT outcome, verdict, analysis_id FROM decisions WHERE id = :id")
    with database.transaction() as session:
        before = session.execute(query, {"id": decision.id}).one()
        decided_on = shown_analyses(session, [case_id])[case_id].id

    run(station, RERUN, ask(database, case_id)[0])

    assert stored(database, case_id).state is CaseState.DECIDED
    assert shown(database, case_id) == NEW
    with database.transaction() as session:
        assert session.execute(query, {"id": decision.id}).one() == before
        assert read_chain(session, case_id).broken_at is None
    assert (before.verdict, before.analysis_id) == (Label.BONA_FIDE, decided_on)


def test_a_decision_can_still_be_undone_when_another_analysis_is_shown_since(
    station: Station, database: Database, settings: Settings, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    review, ada = a_review(database, settings, undo_seconds=60.0), enrolled(database)
    decision = decide(review, database, ada, case_id, Outcome.BONA_FIDE)

    run(station, RERUN, ask(database, case_id)[0])
    review.undo(ada, decision.id)

    assert stored(database, case_id).state is CaseState.READY


def test_a_reviewer_is_told_that_another_analysis_is_shown_now(
    station: Station, database: Database, settings: Settings, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    review, ada = a_review(database, settings), enrolled(database)
    claim, version = review.claim(ada, case_id), stored(database, case_id).version
    place = text("SELECT queued_at FROM cases WHERE id = :id")
    with database.transaction() as session:
        before = session.scalar(place, {"id": case_id})

    run(station, RERUN, ask(database, case_id)[0])

    with pytest.raises(StaleCase, match="reanalyzed"):
        review.decide(
            ada, case_id, token=claim.token, version=version, judgement=Judgement(Outcome.BONA_FIDE)
        )
    with database.transaction() as session:
        assert session.scalar(place, {"id": case_id}) == before  # in front of somebody nothing moves


def test_a_case_that_could_not_be_analysed_gets_a_verdict(
    station: Station, database: Database, pictures: Pictures
) -> None:
    case_id = refused(database, image=pictures.one())

    run(station, RERUN, ask(database, case_id)[0])

    assert stored(database, case_id).refusal is None
    assert shown(database, case_id) == NEW


def test_an_analysis_that_was_made_in_the_shadow_is_shown_without_asking_the_model_again(
    station: Station, database: Database, new: ScriptedDetector, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    run(station, RERUN, ask(database, case_id, shadow=True)[0])

    run(station, RERUN, ask(database, case_id)[0])

    assert (shown(database, case_id), sorted(made(database, case_id))) == (NEW, [NEW, OLD])
    assert len(new.groups) == 1


def test_a_case_that_is_retried_shows_what_the_shadow_made_and_points_at_no_other(
    station: Station, database: Database, pictures: Pictures
) -> None:
    case_id = refused(database, image=pictures.one())
    run(station, RERUN, ask(database, case_id, shadow=True, by=OLD)[0])
    assert stored(database, case_id).refusal is not None
    with database.transaction() as session:
        retry_case(session, case_id, actor="operator")

    work(station, case_id)

    with database.transaction() as session:
        (event,) = [e for e in read_chain(session, case_id).events if e.kind == Move.RECORD]
        assert event.body["analysis"] == str(shown_analyses(session, [case_id])[case_id].id)
    assert made(database, case_id) == [OLD]


def test_questions_go_to_the_bundle_whose_analysis_is_shown(
    station: Station,
    database: Database,
    publisher: Publisher,
    old: ScriptedDetector,
    new: ScriptedDetector,
    pictures: Pictures,
) -> None:
    trial(database, share=1.0)
    case_id = analyzed(station, database, pictures)

    run(station, ANSWER, Questions(database, publisher).ask(case_id, "Why?", actor="platform:test").id)

    assert (len(old.asked), len(new.asked)) == (0, 1)


# --- what a rerun leaves alone


def test_a_bundle_that_is_not_here_leaves_the_rerun_for_another_worker(
    station: Station, database: Database, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    (rerun_id,) = ask(database, case_id, by="elsewhere")

    run(station, RERUN, rerun_id)

    (row,) = reruns(database)
    assert (row.attempts, row.begun_at, row.done_at) == (0, None, None)


def test_the_sweeper_publishes_what_a_live_worker_holds_and_once(
    station: Station,
    database: Database,
    sweeper: Database,
    settings: Settings,
    publisher: Publisher,
    broker: Any,
    pictures: Pictures,
) -> None:
    cases = [analyzed(station, database, pictures) for _ in range(2)]
    ask(database, *cases)
    ask(database, *cases, by="elsewhere")
    assert _publish_due(sweeper, publisher, settings) == 0

    tell(database, station)
    counts = [_publish_due(sweeper, publisher, settings) for _ in range(2)]
    later(database, settings.publish_again_seconds + 1)
    counts.append(_publish_due(sweeper, publisher, settings))
    broker.delete(RERUN_QUEUE)
    later(database, settings.publish_again_seconds + 1)
    counts.append(_publish_due(sweeper, publisher, settings))

    assert counts == [2, 0, 0, 2]


def test_a_second_message_analyses_once(
    station: Station, database: Database, new: ScriptedDetector, pictures: Pictures
) -> None:
    (rerun_id,) = ask(database, analyzed(station, database, pictures))

    for _ in range(2):
        run(station, RERUN, rerun_id)
    run(station, RERUN, new_id())

    assert len(new.groups) == 1


def test_a_case_that_waits_for_its_own_analysis_is_not_analysed_beside_it(
    station: Station, database: Database, new: ScriptedDetector, pictures: Pictures
) -> None:
    (rerun_id,) = ask(database, accepted(database, image=pictures.one()))

    run(station, RERUN, rerun_id)

    assert new.groups == []
    assert reruns(database)[0].done_at is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(None, "image_missing", id="gone"),
        pytest.param(b"other bytes", "image_changed", id="another picture"),
    ],
)
def test_a_picture_that_is_not_what_it_was_is_recorded_and_the_case_stays(
    station: Station, database: Database, storage: Storage, pictures: Pictures, data: bytes | None, code: str
) -> None:
    image = ImageRef(*dataclasses.astuple(pictures.one())[:2])  # no version: whatever the key holds
    case_id = accepted(database, image=image)
    work(station, case_id)
    before = stored(database, case_id)
    client = storage._client  # pyright: ignore[reportPrivateUsage]
    if data is None:
        client.delete_object(Bucket=image.bucket, Key=image.key)
    else:
        client.put_object(Bucket=image.bucket, Key=image.key, Body=data)

    run(station, RERUN, ask(database, case_id)[0])

    assert reruns(database)[0].failure == code
    assert (stored(database, case_id), shown(database, case_id)) == (before, OLD)


@pytest.fixture
def replaced(station: Station, database: Database, storage: Storage, pictures: Pictures) -> UUID:
    """A case without a verdict that OLD analysed in the shadow, and whose picture is another one since.

    The store keeps no versions.
    """
    image = ImageRef(*dataclasses.astuple(pictures.one())[:2])
    case_id = refused(database, image=image)
    run(station, RERUN, ask(database, case_id, shadow=True, by=OLD)[0])
    assert made(database, case_id) == [OLD]
    storage.put_image(image.key, b"other bytes", "image/jpeg")
    return case_id


def test_what_the_shadow_made_of_another_picture_is_not_shown(
    station: Station, database: Database, replaced: UUID
) -> None:
    before = stored(database, replaced)

    run(station, RERUN, ask(database, replaced, by=OLD)[0])

    assert [row.failure for row in reruns(database)] == ["image_changed"]
    assert stored(database, replaced) == before


def test_a_retried_case_whose_picture_the_shadow_did_not_see_goes_to_a_person_without_a_verdict(
    station: Station, database: Database, replaced: UUID
) -> None:
    with database.transaction() as session:
        assert retry_case(session, replaced, actor="operator")

    run(station, ANALYZE, replaced)

    case = stored(database, replaced)
    assert (case.state, case.refusal and case.refusal.code) == (CaseState.READY, "image_changed")
    with database.transaction() as session:
        assert shown_analyses(session, [replaced]) == {}
        assert read_chain(session, replaced).broken_at is None


def test_an_analysis_of_other_bytes_does_not_take_the_place_of_the_one_on_show(
    station: Station, database: Database, new: ScriptedDetector, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    with database.transaction() as session:
        insert_analysis(session, case_id, an_analysis(fingerprint=NEW), new_id=new_id())

    run(station, RERUN, ask(database, case_id)[0])

    assert [row.failure for row in reruns(database)] == ["image_changed"]
    assert shown(database, case_id) == OLD
    assert new.groups == []


def test_a_picture_that_may_have_ended_a_worker_is_analysed_once_more_while_nothing_else_is(
    station: Station, database: Database, new: ScriptedDetector, pictures: Pictures
) -> None:
    case_id = refused(database, image=pictures.one())
    with database.transaction() as session:
        session.execute(text("UPDATE cases SET expired_leases = 1"))
    (rerun_id,) = ask(database, case_id)

    with ThreadPoolExecutor(1) as threads:
        with station.quarantine.shared():
            rerunning = threads.submit(run, station, RERUN, rerun_id)
            while not station.quarantine._exclusive_waiting:  # pyright: ignore[reportPrivateUsage]
                assert not rerunning.done()
        rerunning.result(timeout=30)

    assert len(new.groups) == 1


@pytest.mark.parametrize(
    "error", [BucketNotRead("not this bucket"), DecoderKilled("twice")], ids=lambda error: error.code
)
def test_what_would_be_found_so_again_is_no_rerun_for_ever(
    station: Station,
    database: Database,
    new: ScriptedDetector,
    pictures: Pictures,
    monkeypatch: pytest.MonkeyPatch,
    error: Unavailable,
) -> None:
    case_id = analyzed(station, database, pictures)

    def fail(_data: bytes) -> NoReturn:
        raise error

    monkeypatch.setattr(new, "prepare", fail)

    run(station, RERUN, ask(database, case_id)[0])

    assert reruns(database)[0].failure == error.code
    assert shown(database, case_id) == OLD


def test_what_was_unavailable_is_tried_again_for_as_long_as_it_takes(
    station: Station,
    database: Database,
    sweeper: Database,
    settings: Settings,
    publisher: Publisher,
    broker: Any,
    pictures: Pictures,
) -> None:
    case_id = analyzed(station, database, pictures)
    tell(database, station)
    (rerun_id,) = ask(database, case_id)
    station.pipelines[NEW].batcher.stop(timeout=5)

    for _ in range(ATTEMPTS_AT_MOST + 2):
        run(station, RERUN, rerun_id)
        later(database, settings.publish_again_seconds + 1)
        broker.delete(RERUN_QUEUE)  # a worker took the message
        assert _publish_due(sweeper, publisher, settings) == 1

    (row,) = reruns(database)
    assert (row.attempts, row.failure) == (0, None)


def test_a_worker_that_died_is_noticed_and_after_so_many_the_rerun_is_given_up(
    station: Station,
    database: Database,
    sweeper: Database,
    settings: Settings,
    publisher: Publisher,
    broker: Any,
    pictures: Pictures,
) -> None:
    case_id = analyzed(station, database, pictures)
    tell(database, station)
    (rerun_id,) = ask(database, case_id)

    for attempt in range(1, ATTEMPTS_AT_MOST + 1):
        _take(database, rerun_id, settings)
        broker.delete(RERUN_QUEUE)
        assert _publish_due(sweeper, publisher, settings) == 0
        later(database, stale_seconds(settings) + 1)
        assert _publish_due(sweeper, publisher, settings) == (attempt < ATTEMPTS_AT_MOST)
        assert give_up_reruns(sweeper, settings) == (attempt == ATTEMPTS_AT_MOST)

    (row,) = reruns(database)
    assert (row.failure, row.attempts) == ("attempts_exhausted", ATTEMPTS_AT_MOST)
    assert shown(database, case_id) == OLD


@pytest.mark.parametrize("taken_before", [False, True])
def test_a_rerun_that_no_worker_could_take_is_given_up_after_a_week(
    station: Station,
    database: Database,
    sweeper: Database,
    settings: Settings,
    pictures: Pictures,
    taken_before: bool,
) -> None:
    case_id = analyzed(station, database, pictures)
    (rerun_id,) = ask(database, case_id)
    if taken_before:
        _take(database, rerun_id, settings)
    later(database, 6 * 86_400)
    ask(database, case_id, by="elsewhere")
    given_up = [give_up_reruns(sweeper, settings)]

    later(database, 2 * 86_400)
    given_up.append(give_up_reruns(sweeper, settings))

    assert given_up == [0, 1]
    assert {row.fingerprint: row.failure for row in reruns(database)} == {NEW: "no_worker", "elsewhere": None}


def test_a_rerun_in_a_line_of_weeks_is_not_given_up_while_a_worker_is_at_the_line(
    station: Station, database: Database, sweeper: Database, settings: Settings, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    ask(database, case_id)
    later(database, 30 * 86_400)
    tell(database, station)

    assert give_up_reruns(sweeper, settings) == 0
    assert [row.failure for row in reruns(database)] == [None]


#: Twenty thousand cases that two pipelines are to analyse once more.
_BACKLOG = (
    """
    INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version)
    SELECT gen_random_uuid(), 's', '', 'b', 'k', 0, 'decided', 1 FROM generate_series(1, 20000)
    """,
    """
    INSERT INTO reruns (id, case_id, fingerprint, shadow, asked_by)
    SELECT gen_random_uuid(), cases.id, by, true, 'operator' FROM cases, unnest(ARRAY['f1', 'f2']) AS by
    """,
    "ANALYZE reruns",
)


def _pages(session: Session, statement: Select[Any]) -> int:
    """Pages that a statement looks at to find its rows."""
    words = statement.compile(session.connection(), compile_kwargs={"literal_binds": True})
    plan = (
        session.connection().exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {words}").scalar_one()
    )
    return plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]


def test_the_sweeper_does_not_read_all_that_waits_to_be_analysed_once_more(database: Database) -> None:
    statements = {
        "what was taken too often": RERUNS.spent(limit=1000, stale_after=60.0),
        "what no worker takes": forgotten(["f2"], limit=1000, stale_after=60.0),
        "what is to be published": due_of("f1", limit=2, again_after=None, stale_after=60.0),
        "what is to be published again": due_of("f1", limit=2, again_after=30.0, stale_after=60.0),
    }
    with database.transaction() as session:
        for one in _BACKLOG:
            session.execute(text(one))

    with database.transaction() as session:
        looked_at = {what: _pages(session, statement) for what, statement in statements.items()}
        whole = _pages(session, select(func.count()).where(RerunRow.asked_by == "operator"))

    assert {what: pages for what, pages in looked_at.items() if pages >= whole / 5} == {}


def _take(database: Database, rerun_id: UUID, settings: Settings) -> HeldRerun:
    with database.transaction() as session:
        taken = begin_rerun(
            session,
            rerun_id,
            [NEW],
            actor="worker:w1",
            stale_after=stale_seconds(settings),
            quarantined=True,
        )
    assert taken is not None
    return taken


def test_what_a_worker_says_that_was_given_up_is_not_heard(
    station: Station, database: Database, settings: Settings, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    (rerun_id,) = ask(database, case_id)
    slow = _take(database, rerun_id, settings)
    later(database, stale_seconds(settings) + 1)
    _take(database, rerun_id, settings)

    with database.transaction() as session:
        heard = record_rerun(session, slow, an_analysis(fingerprint=NEW), actor="worker:w1", new_id=new_id())

    assert not heard
    assert made(database, case_id) == [OLD]


def test_a_bug_of_the_candidate_is_recorded_and_so_many_make_it_quiet(
    settings: Settings, database: Database, old: ScriptedDetector, pictures: Pictures
) -> None:
    def bug(_: bytes) -> Any:
        raise KeyError("a bug")

    broken = ScriptedDetector(prepare=bug, fingerprint=NEW)
    station = open_station(settings.model_copy(update={"breaker_failures": 2}), old, broken)
    cases = [analyzed(station, database, pictures) for _ in range(3)]

    for rerun_id in ask(database, *cases):
        run(station, RERUN, rerun_id)

    close_station(station, why="the test ended")
    assert [(row.failure, row.attempts) for row in reruns(database)] == [
        ("fault", 1),
        ("fault", 1),
        (None, 0),
    ]
    assert station.serving.stopped is None


# --- erasure


def _erased(database: Database, settings: Settings, case_id: UUID) -> None:
    decide(a_review(database, settings), database, enrolled(database), case_id, Outcome.BONA_FIDE)
    with database.transaction() as session:
        assert erase_case(session, case_id, actor="operator")


def test_an_erased_case_is_not_analysed_once_more(
    station: Station, database: Database, settings: Settings, new: ScriptedDetector, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    (rerun_id,) = ask(database, case_id)
    _erased(database, settings, case_id)

    run(station, RERUN, rerun_id)

    assert reruns(database)[0].failure == "erased"
    assert new.groups == []


def test_a_case_that_is_erased_while_it_is_analysed_gets_nothing(
    station: Station, database: Database, settings: Settings, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    taken = _take(database, ask(database, case_id)[0], settings)
    _erased(database, settings, case_id)

    with database.transaction() as session:
        record_rerun(session, taken, an_analysis(fingerprint=NEW), actor="worker:w1", new_id=new_id())

    assert made(database, case_id) == [OLD]
    assert reruns(database)[0].failure == "erased"


def test_erasing_takes_the_texts_of_what_was_never_shown_too(
    station: Station, database: Database, settings: Settings, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    taken = _take(database, ask(database, case_id, shadow=True)[0], settings)
    with database.transaction() as session:
        picture = shown_analyses(session, [case_id])[case_id].analysis.picture
        analysis = an_analysis(fingerprint=NEW, picture=picture)
        record_rerun(session, taken, analysis, actor="worker:w1", new_id=new_id())

    _erased(database, settings, case_id)

    texts = text("""
        SELECT r.text FROM artifacts r JOIN analyses a ON a.id = r.analysis_id
        WHERE a.case_id = :id AND a.fingerprint = :new
    """)
    with database.transaction() as session:
        assert session.scalars(texts, {"id": case_id, "new": NEW}).all() == ["erased"]


# --- which cases


@pytest.mark.parametrize(
    ("wanted", "kinds"),
    [
        pytest.param(
            RerunFilter(), {"ready", "avatar", "decided", "refused"}, id="everything that was looked at"
        ),
        pytest.param(RerunFilter(states=(CaseState.DECIDED,)), {"decided"}, id="a state"),
        pytest.param(RerunFilter(source="avatars"), {"avatar"}, id="a source"),
        pytest.param(RerunFilter(label=Label.DEEPFAKE), {"ready", "avatar", "decided"}, id="a label"),
        pytest.param(RerunFilter(label=Label.BONA_FIDE), set(), id="a label that none has"),
    ],
)
def test_cases_are_chosen_as_asked(
    database: Database, settings: Settings, wanted: RerunFilter, kinds: set[str]
) -> None:
    known = {
        "waiting": accepted(database),
        "ready": ready(database),
        "avatar": ready(database, source="avatars"),
        "decided": ready(database),
        "refused": refused(database),
        "erased": ready(database),
    }
    review, ada = a_review(database, settings), enrolled(database)
    decide(review, database, ada, known["decided"], Outcome.DEEPFAKE)
    decide(review, database, ada, known["erased"], Outcome.DEEPFAKE)
    with database.transaction() as session:
        assert erase_case(session, known["erased"], actor="operator")

    *_, (cases, new) = ask_for_reruns(database, NEW, wanted, shadow=False, asked_by="operator")

    assert {row.case_id for row in reruns(database)} == {known[kind] for kind in kinds}
    assert (cases, new) == (len(kinds), len(kinds))


def test_asking_goes_page_by_page_up_to_the_limit_and_twice_is_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderation.rollouts.reruns.PAGE", 2)
    cases = [ready(database) for _ in range(5)]

    def asked(**how: Any) -> list[tuple[int, int]]:
        return list(ask_for_reruns(database, NEW, RerunFilter(), shadow=False, asked_by="operator", **how))

    assert asked(dry_run=True) == [(2, 0), (4, 0), (5, 0)]
    assert reruns(database) == []
    assert asked(at_most=3) == [(2, 2), (3, 3)]
    assert {row.case_id for row in reruns(database)} == set(cases[:3])
    assert asked() == [(2, 0), (4, 1), (5, 2)]


def test_what_failed_is_asked_for_again_and_a_shadow_that_waits_can_be_asked_to_be_shown(
    station: Station, database: Database, pictures: Pictures
) -> None:
    failed, shadow = (analyzed(station, database, pictures) for _ in range(2))
    with database.transaction() as session:
        insert_reruns(session, NEW, [failed], shadow=False, asked_by="operator")
        session.execute(text("UPDATE reruns SET done_at = now(), failure = 'fault', attempts = 3"))
        insert_reruns(session, NEW, [shadow], shadow=True, asked_by="operator")

    for rerun_id in ask(database, failed, shadow):
        run(station, RERUN, rerun_id)

    assert [shown(database, case_id) for case_id in (failed, shadow)] == [NEW, NEW]
    assert [row.failure for row in reruns(database)] == [None, None]
    with database.transaction() as session:
        assert rerun_backlog(session) == []


def test_what_a_bundle_shows_already_is_not_asked_for(
    station: Station, database: Database, pictures: Pictures
) -> None:
    case_id = analyzed(station, database, pictures)
    run(station, RERUN, ask(database, case_id, shadow=True)[0])

    def fit(by: str, *, shadow: bool) -> int:
        pages = ask_for_reruns(database, by, RerunFilter(), shadow=shadow, asked_by="operator", dry_run=True)
        return [cases for cases, _ in pages][-1]

    assert fit(OLD, shadow=False) == fit(OLD, shadow=True) == fit(NEW, shadow=True) == 0
    assert fit(NEW, shadow=False) == 1
