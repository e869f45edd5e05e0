"""Archives: what leaves for S3 is whole, comes back as it was, and is nowhere lost when a run is cut off."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import boto3
import psycopg
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from moderation.analysis import Technique
from moderation.archive.archived import (
    archive_past,
    begin_archive,
    cases_to_archive,
    lock_cases,
    move_into_archive,
    only_archiver,
    read_records,
)
from moderation.archive.archiver import (
    ArchivedBatch,
    ArchivePlace,
    Archives,
    Opened,
    digest,
    find_line,
    pack,
    read_place,
    unpack,
)
from moderation.archive.erasure import erase_case, erase_past
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.database.outbox import Kind
from moderation.database.questions import begin_question, insert_question, record_answer
from moderation.database.tables import Table
from moderation.decisions import Answer, Outcome
from moderation.dispatch import Publisher
from moderation.errors import ArchiveBroken, ArchiveBusy, CaseArchived, SetupProblem, TransitionRefused
from moderation.local import as_role
from moderation.questions import Questions
from moderation.rollouts.rerun_rows import insert_reruns
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.webhooks.delivery_rows import insert_endpoint
from tests.builders import a_face_analysis, a_map, an_analysis, an_artifact, an_effect, new_id
from tests.integration.conftest import enrolled, ready, refused, stored
from tests.integration.deciding import a_review, decide

BUCKET = "archive"
PLACE = ArchivePlace(BUCKET, "cases")
LATER = datetime.now(UTC) + timedelta(days=1)
MARK = "Marguerite"
A_FACT = {"kind": "camera", "status": "found", "strength": "declared", "points_to": None, "data": {}}

#: The tables that an archived case has rows in still: its own, what people decided, and where it lies.
STAY = {"cases", "decisions", "appeals", "archives"}


@pytest.fixture
def bucket(settings: Settings) -> Any:
    """An empty bucket for archives."""
    secret = settings.s3_secret_access_key
    assert secret is not None
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value(),
    )
    if BUCKET not in [found["Name"] for found in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=BUCKET)
    for key in _keys(client):
        client.delete_object(Bucket=BUCKET, Key=key)
    return client


@pytest.fixture
def archives(database: Database, storage: Storage, settings: Settings, bucket: Any) -> Archives:
    return Archives(database, storage, settings)


def _keys(client: Any) -> list[str]:
    return [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def _decided(database: Database, settings: Settings, **fields: Any) -> UUID:
    """A case with a row in every table that a case can have one in: decided, appealed and decided again."""
    artifact = an_artifact(heading=f"{MARK}'s mouth", text=f"{MARK} is blurred", effect=an_effect())
    face = a_face_analysis(rationale=(artifact,), foreign=a_map())
    values = {"external_id": str(new_id()), "reason": f"{MARK} says so", **fields}
    case_id = ready(database, analysis=an_analysis(faces=(face,)), **values)
    review = a_review(database, settings, blind_first_share=1.0)
    ada, bo, cy = (enrolled(database, f"{name}-{new_id()}") for name in ("Ada", "Bo", "Cy"))
    review.skip(cy, case_id, review.claim(cy, case_id).token, "not mine")
    decide(review, database, ada, case_id, Outcome.DEEPFAKE, Technique.FS, blind=Outcome.DEEPFAKE,
           answers=(Answer.AGREE,))  # fmt: skip
    review.appeal(case_id, f"It is {MARK}.", actor="platform:x")
    decide(review, database, bo, case_id, Outcome.BONA_FIDE, policy=f"{MARK}'s rule")
    with database.transaction() as session:
        question = insert_question(session, case_id, asked_by=bo.actor, question=f"Is it {MARK}?")
        begun = begin_question(session, question.id, stale_after=60, quarantined=False)
        assert begun is not None
        record_answer(session, begun, MARK, bundle="mini 1", fingerprint="f1", seconds=1.0)
        session.execute(
            text("INSERT INTO views (case_id, person_id, kind) VALUES (:case, :person, 'shown')"),
            {"case": case_id, "person": ada.id},
        )
        session.execute(
            text(
                "INSERT INTO reruns (id, case_id, fingerprint, shadow, asked_by, done_at)"
                " VALUES (:id, :case, 'f2', true, 'operator', now())"
            ),
            {"id": new_id(), "case": case_id},
        )
        session.execute(
            text(
                "INSERT INTO deliveries (id, endpoint_id, case_id, kind, body, delivered_at)"
                " VALUES (:id, :endpoint, :case, 'case.decided', :body, now())"
            ),
            {"id": new_id(), "endpoint": _endpoint(database), "case": case_id, "body": f'"{MARK}"'},
        )
        session.execute(text("UPDATE deliveries SET delivered_at = now()"))
        session.execute(
            text(
                "INSERT INTO evidence (case_id, gatherer, declared, strength, facts, seconds)"
                " VALUES (:case, '1', 'synthetic', 'declared', :facts, 0.01)"
            ),
            {"case": case_id, "facts": json.dumps([A_FACT])},
        )
        # Decisions of this very moment are final from the next on.
        session.execute(text("UPDATE cases SET decided_at = decided_at - interval '400 days'"))
    return case_id


def _endpoint(database: Database) -> UUID:
    with database.transaction() as session:
        return insert_endpoint(session, url="https://x.example", kinds=[Kind.DECIDED], source=None).id


def _rows(database: Database) -> dict[str, list[str]]:
    """Every table that cases have rows in, as text."""
    with database.transaction() as session:
        return {
            table.name: list(session.scalars(text(f"SELECT t::text FROM {table.name} t ORDER BY 1")))
            for table in Table.metadata.sorted_tables
            if table.name not in ("archives", "bundles", "rollouts", "people", "endpoints")
        }


def _archive(archives: Archives, **fields: Any) -> list[ArchivedBatch]:
    return list(archives.archive(PLACE, LATER, **fields))


def _opened(archives: Archives, batch: ArchivedBatch) -> Opened:
    assert batch.place is not None
    return archives.read(read_place(batch.place))


def test_a_case_leaves_whole_and_its_row_and_decisions_stay(
    database: Database, settings: Settings, archives: Archives
) -> None:
    case_id = _decided(database, settings)
    before = _rows(database)
    with database.transaction() as session:
        chain = read_chain(session, case_id)

    (batch,) = _archive(archives)

    after = _rows(database)
    record = json.loads(find_line(_opened(archives, batch), case_id))
    with_rows = {name for name, rows in before.items() if rows}
    assert {name for name, rows in after.items() if rows} & with_rows == STAY - {"archives"}
    assert {name for name in with_rows - {"cases"} if record[name]} == with_rows - {"cases"}
    assert after["decisions"] == before["decisions"]
    assert [event["kind"] for event in record["events"]] == [event.kind for event in chain.events]
    assert record["analyses"][0]["faces"][0]["box"]
    assert stored(database, case_id).version == chain.events[-1].seq


def test_a_case_comes_back_as_it_was(
    database: Database, settings: Settings, archives: Archives, bucket: Any
) -> None:
    ids = [_decided(database, settings) for _ in range(3)]
    before = _rows(database)
    (batch,) = _archive(archives)

    for case_id in ids:
        archives.restore(case_id)

    assert _rows(database) == before
    assert batch.cases == 3
    assert _keys(bucket) == []
    with database.transaction() as session:
        assert [read_chain(session, case_id).broken_at for case_id in ids] == [None] * 3


def _ask_once_more(database: Database, case_id: UUID) -> int:
    with database.transaction() as session:
        return insert_reruns(session, "f2", [case_id], shadow=True, asked_by="operator")


def test_a_case_that_leaves_is_not_asked_for_once_more(
    database: Database, settings: Settings, archives: Archives
) -> None:
    case_id = _decided(database, settings)
    with database.transaction() as session:
        lines = read_records(session, [case_id])
        archive_id = begin_archive(session, BUCKET, "cases/x", cases=1, size=1, sha256=digest(lines))

    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as session:
            assert lock_cases(session, [case_id])
            move_into_archive(session, archive_id, [case_id])
            asking = threads.submit(_ask_once_more, database, case_id)
            while not (_somebody_waits(database) or asking.done()):
                pass
        new = asking.result(timeout=30)

    assert new == 0
    assert _rows(database)["reruns"] == []


def test_a_case_that_is_asked_for_once_more_does_not_leave(
    database: Database, settings: Settings, archives: Archives
) -> None:
    case_id = _decided(database, settings)

    with ThreadPoolExecutor(1) as threads:
        with database.transaction() as session:
            assert insert_reruns(session, "f2", [case_id], shadow=True, asked_by="operator") == 1
            leaving = threads.submit(_may_be_archived, database, case_id)
            while not (_somebody_waits(database) or leaving.done()):
                pass
        may_leave = leaving.result(timeout=30)

    assert not may_leave


def _may_be_archived(database: Database, case_id: UUID) -> bool:
    with database.transaction() as session:
        return lock_cases(session, [case_id])


def _somebody_waits(database: Database) -> bool:
    """Whether a connection to this database waits for another to let go of a row."""
    waits = "datname = current_database() AND wait_event_type = 'Lock'"
    with database.transaction() as session:
        return bool(session.scalar(text(f"SELECT EXISTS (SELECT FROM pg_stat_activity WHERE {waits})")))


#: As releases before left it: asked for while the case left. The first stands in the place of a recorded one.
_ASKED_MEANWHILE = text("""
    INSERT INTO reruns (id, case_id, fingerprint, shadow, asked_by)
    SELECT gen_random_uuid(), id, by, true, 'operator' FROM cases, unnest(ARRAY['f2', 'f3']) AS by
""")


def test_a_case_comes_back_whatever_was_asked_for_meanwhile(
    database: Database, settings: Settings, archives: Archives
) -> None:
    case_id = _decided(database, settings)
    before = _rows(database)
    _archive(archives)
    with database.transaction() as session:
        session.execute(_ASKED_MEANWHILE)

    archives.restore(case_id)

    assert _rows(database) == before


def test_what_was_asked_for_meanwhile_holds_up_no_erasure_and_no_archiver(
    database: Database, storage: Storage, settings: Settings, archives: Archives
) -> None:
    case_id = _decided(database, settings)
    _archive(archives)
    with database.transaction() as session:
        session.execute(_ASKED_MEANWHILE)
    chosen = settings.model_copy(update={"retention_days": (("*", 300.0),)})

    (batch,) = _archive(Archives(database, storage, chosen))

    assert batch.cases == 1
    assert stored(database, case_id).flag.image.key == "erased"


def test_what_is_taken_out_leaves_the_others_in_a_new_object(
    database: Database, settings: Settings, archives: Archives, bucket: Any
) -> None:
    first, second = (_decided(database, settings) for _ in range(2))
    (batch,) = _archive(archives)

    archives.restore(first)

    (key,) = _keys(bucket)
    opened = archives.read(ArchivePlace(BUCKET, key))
    assert [json.loads(line)["case"]["id"] for line in opened.lines] == [str(second)]
    assert batch.place != f"s3://{BUCKET}/{key}"
    archives.restore(second)


def test_only_old_cases_about_which_nothing_is_open_leave(
    database: Database, settings: Settings, archives: Archives
) -> None:
    old = _decided(database, settings)
    asked, told, undoable, young = (_decided(database, settings) for _ in range(4))
    ready(database)
    with database.transaction() as session:
        insert_question(session, asked, asked_by="platform:x", question="Why?")
        session.execute(text("UPDATE deliveries SET delivered_at = NULL WHERE case_id = :id"), {"id": told})
        session.execute(
            text("UPDATE cases SET decided_at = now() + interval '2 hours' WHERE id = :id"), {"id": young}
        )
    review = a_review(database, settings, undo_seconds=600.0)
    review.appeal(undoable, "Again.", actor="platform:y")
    decide(review, database, enrolled(database, "Di"), undoable, Outcome.DEEPFAKE)
    with database.transaction() as session:
        session.execute(text("UPDATE cases SET decided_at = '2020-01-01' WHERE id = :id"), {"id": undoable})

    before = datetime.now(UTC) - timedelta(days=300)
    with database.transaction() as session:
        found = cases_to_archive(
            session, datetime.now(UTC) + timedelta(hours=1), erased_first=(), after=None, limit=10
        )
        aged = cases_to_archive(session, before, erased_first=(), after=None, limit=10)

    assert found == [old]
    assert aged == []  # their ids say that they were accepted a moment ago
    assert archives.count(LATER) == 2
    assert archives.count(LATER, limit=1) == 1


def test_a_source_with_a_retention_leaves_erased_or_not_at_all(
    database: Database, storage: Storage, settings: Settings, bucket: Any
) -> None:
    kept, erased, other = (
        _decided(database, settings, source=source) for source in ("short", "short", "other")
    )
    with database.transaction() as session:
        assert erase_case(session, erased, actor="operator")
    chosen = settings.model_copy(update={"retention_days": (("short", 500.0),)})

    (batch,) = _archive(Archives(database, storage, chosen))

    assert {find_line(_opened(Archives(database, storage, chosen), batch), one) for one in (erased, other)}
    assert stored(database, kept).archive_id is None
    assert MARK not in find_line(_opened(Archives(database, storage, chosen), batch), erased)


_REFUSED = text("UPDATE cases SET refusal_code = 'image_missing', refusal_message = :message WHERE id = :id")


def test_an_archived_case_is_erased_in_its_object_too(
    database: Database, settings: Settings, archives: Archives, bucket: Any
) -> None:
    wanted, other = (_decided(database, settings) for _ in range(2))
    with database.transaction() as session:
        session.execute(_REFUSED, {"id": wanted, "message": f"s3://flagged/{MARK}.jpg is not there"})
    _archive(archives)
    with database.transaction() as session:
        assert not erase_case(session, wanted, actor="operator")

    archives.erase(wanted, actor="operator")

    (key,) = _keys(bucket)
    assert (
        str(wanted) not in gzip.decompress(bucket.get_object(Bucket=BUCKET, Key=key)["Body"].read()).decode()
    )
    with database.transaction() as session:
        erased_by = session.scalar(text("SELECT erased_by FROM cases WHERE id = :id"), {"id": wanted})
        chain = read_chain(session, wanted)
    assert erased_by == "operator"
    assert chain.broken_at is None
    (batch,) = _archive(archives)
    assert MARK not in find_line(_opened(archives, batch), wanted)
    assert stored(database, other).archive_id is not None


@pytest.fixture
def untold(database: Database, settings: Settings) -> UUID:
    """A decided case of which nobody was told: the endpoint is disabled."""
    case_id = _decided(database, settings)
    with database.transaction() as session:
        session.execute(text("UPDATE deliveries SET delivered_at = NULL"))
        session.execute(text("UPDATE endpoints SET disabled_at = now()"))
    return case_id


def test_what_nobody_will_be_told_keeps_no_case_here(
    database_url: str, database: Database, storage: Storage, settings: Settings, untold: UUID, bucket: Any
) -> None:
    before = _rows(database)
    archiver = Database(as_role(database_url, "bonafide_archiver"), pool_size=2)
    archives = Archives(archiver, storage, settings)

    _archive(archives)

    assert stored(database, untold).archive_id is not None
    archives.restore(untold)
    archiver.close()
    assert _rows(database) == before


def test_an_archived_case_of_which_somebody_is_to_be_told_again_comes_back_and_is_not_erased(
    database: Database, archives: Archives, untold: UUID
) -> None:
    _archive(archives)
    with database.transaction() as session:
        session.execute(text("UPDATE endpoints SET disabled_at = NULL"))

    with pytest.raises(TransitionRefused, match="is not sent yet"):
        archives.erase(untold, actor="operator")

    case = stored(database, untold)
    assert (case.archive_id, case.erased_at) == (None, None)


#: The tables that an archived case has no row in.
_LEFT = (
    "events",
    "analyses",
    "artifacts",
    "effects",
    "artifact_answers",
    "blind_judgements",
    "skips",
    "views",
    "questions",
    "reruns",
    "deliveries",
    "evidence",
)


def test_what_a_record_does_not_name_has_its_default_when_it_comes_back(
    database: Database, settings: Settings, archives: Archives
) -> None:
    case_id = _decided(database, settings)
    before = _rows(database)
    _archive(archives)
    with database.transaction() as session:
        for table in _LEFT:
            session.execute(text(f"ALTER TABLE {table} ADD COLUMN later integer NOT NULL DEFAULT 7"))
        session.execute(text("ALTER TABLE skips DROP COLUMN reason"))

    archives.restore(case_id)

    with database.transaction() as session:
        added = {table: set(session.scalars(text(f"SELECT later FROM {table}"))) for table in _LEFT}
        for table in _LEFT:
            session.execute(text(f"ALTER TABLE {table} DROP COLUMN later"))
    assert added == {table: {7} for table in _LEFT}
    assert {table: rows for table, rows in _rows(database).items() if table != "skips"} == {
        table: rows for table, rows in before.items() if table != "skips"
    }


def test_a_record_of_a_column_added_later_comes_back_whole(
    database: Database, settings: Settings, archives: Archives
) -> None:
    with database.transaction() as session:
        for table in _LEFT:
            session.execute(text(f"ALTER TABLE {table} ADD COLUMN later integer NOT NULL DEFAULT 7"))
    case_id = _decided(database, settings)
    with database.transaction() as session:
        session.execute(text("INSERT INTO events (case_id, kind, actor, body, later, seq, previous, hash)"
                             " SELECT id, 'retried', 'operator', '{}', 8, 0, '', '' FROM cases"))  # fmt: skip
        session.execute(text("UPDATE cases SET version = version + 1"))
    before = _rows(database)
    _archive(archives)

    archives.restore(case_id)

    assert _rows(database) == before


def test_a_retention_that_was_set_later_reaches_what_had_left(
    database: Database, storage: Storage, settings: Settings, archives: Archives
) -> None:
    first, second = (_decided(database, settings) for _ in range(2))
    _archive(archives)
    chosen = settings.model_copy(update={"retention_days": (("*", 300.0),)})
    with database.transaction() as session:
        assert erase_past(session, chosen.retention_days, actor="sweeper") == 0

    (batch,) = _archive(Archives(database, storage, chosen))

    lines = _opened(archives, batch).lines
    assert len(lines) == 2
    assert MARK not in "".join(lines)
    assert {stored(database, one).flag.image.key for one in (first, second)} == {"erased"}


def test_a_retention_that_was_set_later_takes_from_an_object_what_is_over_and_no_more(
    database: Database, storage: Storage, settings: Settings, archives: Archives
) -> None:
    over, kept = (_decided(database, settings, source=source) for source in ("over", "kept"))
    _archive(archives)
    chosen = settings.model_copy(update={"retention_days": (("kept", 900.0), ("*", 300.0))})

    with database.transaction() as session:
        found = archive_past(session, chosen.retention_days)
    assert found is not None
    assert found[1] == [over]
    (batch,) = _archive(Archives(database, storage, chosen))

    assert MARK not in find_line(_opened(archives, batch), over)
    assert stored(database, kept).flag.image.key != "erased"
    with database.transaction() as session:
        assert archive_past(session, chosen.retention_days) is None


def test_nothing_happens_to_an_archived_case(
    database: Database, settings: Settings, archives: Archives, database_url: str, broker_url: str
) -> None:
    case_id = _decided(database, settings)
    _archive(archives)

    with pytest.raises(CaseArchived, match="restore"):
        a_review(database, settings).appeal(case_id, "Again.", actor="platform:x")
    with pytest.raises(CaseArchived, match="restore"):
        Questions(database, Publisher(broker_url, at_most=10)).ask(case_id, "Why?", actor="platform:x")
    with (
        psycopg.connect(database_url) as connection,
        pytest.raises(psycopg.errors.RaiseException, match="is archived"),
    ):
        connection.execute(
            "INSERT INTO events (case_id, kind, actor, body, seq, previous, hash)"
            " VALUES (%s, 'reanalyzed', 'operator', '{}', 0, '', '')",
            [case_id],
        )
    archives.restore(case_id)
    assert a_review(database, settings).appeal(case_id, "Again.", actor="platform:x").reason == "Again."


def test_platforms_and_reviewers_are_told_where_it_is(
    api: TestClient, database: Database, settings: Settings, archives: Archives
) -> None:
    case_id, unread = _decided(database, settings), refused(database)
    with database.transaction() as session:
        session.execute(text("UPDATE cases SET state = 'decided', decided_at = '2020-01-01', version = 4"
                             " WHERE id = :id"), {"id": unread})  # fmt: skip
    before = api.get(f"/v1/cases/{case_id}")
    (batch,) = _archive(archives, limit=1)

    after = api.get(f"/v1/cases/{case_id}", headers={"If-None-Match": before.headers["ETag"]})
    page = api.get("/v1/cases", params={"state": "decided"}).json()["cases"]

    shown = after.json()
    assert after.status_code == 200
    assert shown["archived"]["place"] == batch.place
    assert shown["archived"]["at"]
    assert shown["verdict"]["label"] == before.json()["verdict"]["label"]
    assert shown["verdict"]["score"] is None
    assert shown["decision"] == before.json()["decision"]
    assert shown["rationale"] == []
    assert {one["id"]: one["archived"] is not None for one in page} == {
        str(case_id): True,
        str(unread): False,
    }


def test_a_case_with_a_broken_chain_stays_and_is_named(
    database: Database, settings: Settings, archives: Archives, database_url: str
) -> None:
    honest, forged = (_decided(database, settings) for _ in range(2))
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE events DISABLE TRIGGER append_only")
        connection.execute("UPDATE events SET actor = 'nobody' WHERE case_id = %s AND seq = 3", [forged])

    (batch,) = _archive(archives)

    assert batch.broken == (forged,)
    assert batch.cases == 1
    assert stored(database, forged).archive_id is None
    assert stored(database, honest).archive_id is not None


def _line(**changes: Any) -> str:
    record: dict[str, Any] = {"case": {"id": str(new_id()), "version": 0}, "events": []}
    record["case"].update(changes)
    return json.dumps(record)


def _spoiled(what: str) -> bytes:
    lines = [_line(), _line()]
    whole = pack(lines, schema="0001", now=LATER)
    manifest, first, second = gzip.decompress(whole).decode().splitlines()
    match what:
        case "cut":
            return whole[: len(whole) // 2]
        case "line gone":
            return gzip.compress(f"{manifest}\n{first}\n".encode())
        case "line changed":
            return gzip.compress(f"{manifest}\n{first}\n{second.replace('0', '1', 1)}\n".encode())
        case "chain":
            return pack([_line(version=1)], schema="0001", now=LATER)
        case "another form":
            return gzip.compress(b'{"bonafide_archive": 2}\n')
        case _:
            return b"not gzip"


@pytest.mark.parametrize("what", ["cut", "line gone", "line changed", "chain", "another form", "no gzip"])
def test_an_object_that_is_not_what_was_written_is_refused(what: str) -> None:
    with pytest.raises(ArchiveBroken):
        unpack(_spoiled(what))


def test_nothing_is_deleted_when_storage_gives_back_something_else(
    database: Database, settings: Settings, storage: Storage, archives: Archives
) -> None:
    _decided(database, settings)
    before = _rows(database)

    class Forgetful(Storage):
        def read_archive(self, bucket: str, key: str) -> bytes:
            return super().read_archive(bucket, key)[:-20]

    with pytest.raises(ArchiveBroken):
        _archive(Archives(database, Forgetful(settings), settings))

    assert _rows(database) == before
    assert _archive(archives)[0].cases == 1


def test_a_case_that_changes_while_it_is_written_stays(
    database: Database, settings: Settings, archives: Archives, bucket: Any
) -> None:
    case_id = _decided(database, settings)

    class Slow(Storage):
        """Something happens between the writing and the deleting."""

        def read_archive(self, bucket: str, key: str) -> bytes:
            a_review(database, settings).appeal(case_id, "Wait.", actor="platform:z")
            return super().read_archive(bucket, key)

    (batch,) = _archive(Archives(database, Slow(settings), settings))

    assert batch.cases == 0
    assert stored(database, case_id).archive_id is None
    assert _keys(bucket) == []
    with database.transaction() as session:
        assert read_chain(session, case_id).broken_at is None


def test_an_archive_lies_in_no_bucket_of_images(
    database: Database, settings: Settings, archives: Archives
) -> None:
    _decided(database, settings)

    with pytest.raises(SetupProblem, match="bucket of their own"):
        list(archives.archive(ArchivePlace(settings.s3_buckets[0], "x"), LATER))


def test_one_archiver_works_at_a_time(database: Database, archives: Archives) -> None:
    with only_archiver(database), pytest.raises(ArchiveBusy):
        _archive(archives)


def test_what_is_not_archived_cannot_be_brought_back(
    database: Database, settings: Settings, archives: Archives
) -> None:
    with pytest.raises(TransitionRefused, match="not archived"):
        archives.restore(_decided(database, settings))


def test_the_archiver_may_do_this_and_nothing_else(
    database_url: str, database: Database, settings: Settings, storage: Storage, bucket: Any
) -> None:
    case_id = _decided(database, settings)
    archiver = Database(as_role(database_url, "bonafide_archiver"), pool_size=2)

    archives = Archives(archiver, storage, settings)
    assert _archive(archives)[0].cases == 1
    archives.erase(case_id, actor="operator")
    archiver.close()

    for role, statement in (
        ("bonafide_archiver", "DELETE FROM events"),
        ("bonafide_archiver", "UPDATE cases SET state = 'ready'"),
        ("bonafide_archiver", "INSERT INTO decisions DEFAULT VALUES"),
        ("bonafide_sweeper", "SELECT archive_cases(ARRAY[]::uuid[], 1)"),
        ("bonafide_web", "SELECT restore_case('{}')"),
    ):
        with (
            psycopg.connect(as_role(database_url, role)) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_the_word_that_opens_archiving_opens_nothing_to_others(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("GRANT DELETE ON events TO bonafide_worker")
        connection.execute("SET ROLE bonafide_worker")
        connection.execute("SET bonafide.archiving = 'on'")

        with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
            connection.execute("DELETE FROM events")


#: Ends this process as power loss would: at a statement, or at a request of S3, before it or after it.
_KILLED = """
import os, signal, sys
from datetime import UTC, datetime, timedelta
from sqlalchemy import event
from moderation.archive.archiver import ArchivePlace, Archives
from moderation.database.connection import Database
from moderation.settings import settings
from moderation.storage import Storage

where, case_id = sys.argv[1], sys.argv[2]
end = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
database, storage = Database(settings().database_url.get_secret_value()), Storage(settings())
kind, _, what = where.partition(":")
if kind == "statement":
    @event.listens_for(database.engine, "before_cursor_execute")
    def look(connection, cursor, statement, *_):
        if what in statement:
            end()
elif kind == "done":
    @event.listens_for(database.engine, "after_cursor_execute")
    def look(connection, cursor, statement, *_):
        if what in statement:
            event.listen(database.engine, "commit", end)
elif kind == "committed":
    seen = []
    @event.listens_for(database.engine, "after_cursor_execute")
    def look(connection, cursor, statement, *_):
        if what in statement:
            seen.append(statement)
        elif seen:
            end()
else:
    storage._client.meta.events.register(f"{kind}-call.s3.{what}", end)
archives = Archives(database, storage, settings())
if case_id == "none":
    list(archives.archive(ArchivePlace("archive", "cases"), datetime.now(UTC) + timedelta(days=1)))
else:
    archives.erase(case_id and __import__("uuid").UUID(case_id), actor="operator")
"""


def _run_killed(database: Database, settings: Settings, where: str, case_id: UUID | None = None) -> None:
    secret = settings.s3_secret_access_key
    assert secret is not None
    environment = {
        **os.environ,
        "BONAFIDE_DATABASE_URL": settings.database_url.get_secret_value(),
        "BONAFIDE_S3_ENDPOINT_URL": str(settings.s3_endpoint_url),
        "BONAFIDE_S3_ACCESS_KEY_ID": str(settings.s3_access_key_id),
        "BONAFIDE_S3_SECRET_ACCESS_KEY": secret.get_secret_value(),
        "BONAFIDE_S3_BUCKETS": ",".join(settings.s3_buckets),
    }
    ended = subprocess.run(
        [sys.executable, "-c", _KILLED, where, str(case_id or "none")],
        env=environment,
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    # Postgres ends the sessions of the dead a moment later, and with them the lock that only one archiver has.
    held = text(
        "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE d.datname = current_database() AND l.locktype = 'advisory'"
    )
    for _ in range(200):
        with database.transaction() as session:
            if not session.scalar(held):
                return
        time.sleep(0.05)
    pytest.fail("the lock of a dead archiver is held still")


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("statement:INSERT INTO archives", id="before anything"),
        pytest.param("before:PutObject", id="object known, not written"),
        pytest.param("after:PutObject", id="object written"),
        pytest.param("after:GetObject", id="object read back"),
        pytest.param("statement:archive_cases", id="cases locked"),
        pytest.param("done:archive_cases", id="before the commit"),
        pytest.param("committed:archive_cases", id="after the commit"),
    ],
)
def test_a_run_that_is_cut_off_loses_nothing_and_is_repeated(
    database: Database, settings: Settings, archives: Archives, bucket: Any, where: str
) -> None:
    ids = [_decided(database, settings) for _ in range(2)]
    before = _rows(database)

    _run_killed(database, settings, where)
    _archive(archives)

    (key,) = _keys(bucket)
    assert len(archives.read(ArchivePlace(BUCKET, key)).lines) == 2
    for case_id in ids:
        archives.restore(case_id)
    assert _rows(database) == before
    assert _keys(bucket) == []


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("after:PutObject", id="new object written"),
        pytest.param("statement:restore_case", id="before it comes back"),
        pytest.param("done:erase_case", id="before the commit"),
        pytest.param("before:DeleteObject", id="before the old object goes"),
        pytest.param("after:DeleteObject", id="after the old object went"),
    ],
)
def test_an_erasure_that_is_cut_off_is_done_whole_or_not_at_all(
    database: Database, settings: Settings, archives: Archives, bucket: Any, where: str
) -> None:
    wanted, other = (_decided(database, settings) for _ in range(2))
    _archive(archives)

    _run_killed(database, settings, where, wanted)
    if stored(database, wanted).archive_id is not None:
        archives.erase(wanted, actor="operator")
    _archive(archives)

    lines = [line for key in _keys(bucket) for line in archives.read(ArchivePlace(BUCKET, key)).lines]
    assert sorted(json.loads(line)["case"]["id"] for line in lines) == sorted([str(wanted), str(other)])
    assert [MARK in line for line in sorted(lines, key=lambda line: str(other) in line)] == [False, True]
