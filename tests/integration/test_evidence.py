"""Evidence from the worker to whoever reads it: stored beside the verdict, put before people, erased with its case."""

import dataclasses
import io
import json
from collections.abc import Iterator
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from moderation.analysis import Label, Technique, Verdict
from moderation.archive.erasure import erase_case
from moderation.cases import ImageRef
from moderation.database.connection import Database
from moderation.decisions import Outcome
from moderation.dfa.gpt.crops import Prepared
from moderation.evidence.rows import StoredEvidence, evidence_of, record_evidence
from moderation.evidence.words import ClaimedOrigin, Evidence, Fact, FactKind, Strength
from moderation.local import as_role
from moderation.reports.exports import Format, What, export
from moderation.rollouts.rerun_rows import insert_reruns
from moderation.settings import Settings
from moderation.storage import Storage
from moderation.triage import CONFLICT_SECONDS
from tests.builders import a_verdict, an_analysis, bona_fide, with_verdict
from tests.fakes import ScriptedDetector, one_face
from tests.integration.conftest import accepted, enrolled, ready
from tests.integration.deciding import a_review, decide
from worker.analysis import ANALYZE
from worker.lifecycle import close_station, open_station
from worker.reruns import RERUN
from worker.run import run
from worker.station import Station

AI_MADE = Evidence(
    (
        Fact(
            FactKind.CONTENT_CREDENTIALS,
            Strength.DECLARED,
            {
                "state": "valid",
                "signer": "Marguerite's =Studio",
                "source_types": ("trainedAlgorithmicMedia",),
            },
            ClaimedOrigin.SYNTHETIC,
        ),
        Fact(FactKind.CAMERA, Strength.CONTEXT, {"make": "Acme", "maker_note": True}),
    ),
    0.004,
)


def record(
    database: Database,
    case_id: UUID,
    evidence: Evidence = AI_MADE,
    *,
    gatherer: str = "1",
    sha256: str | None = None,
) -> None:
    with database.transaction() as session:
        record_evidence(session, case_id, sha256 or an_analysis().picture.sha256, evidence, gatherer=gatherer)


def stored(database: Database, case_id: UUID) -> StoredEvidence | None:
    with database.transaction() as session:
        return evidence_of(session, [case_id]).get(case_id)


def test_what_is_stored_is_read_back_and_the_same_gatherer_changes_nothing(database: Database) -> None:
    case_id = ready(database)

    record(database, case_id)
    record(database, case_id, Evidence())

    found = stored(database, case_id)
    assert found is not None
    assert (found.evidence, found.gatherer) == (AI_MADE, "1")


def test_another_gatherer_takes_the_place_of_what_was_found_before(database: Database) -> None:
    case_id = ready(database)
    record(database, case_id)

    record(database, case_id, Evidence(), gatherer="2")

    found = stored(database, case_id)
    assert found is not None
    assert (found.evidence, found.gatherer) == (Evidence(), "2")


def test_evidence_of_other_bytes_is_not_stored(database: Database) -> None:
    case_id = ready(database)

    record(database, case_id, sha256="cd" * 32)

    assert stored(database, case_id) is None


def test_an_erased_case_gets_none_any_more(database: Database, settings: Settings) -> None:
    case_id = ready(database)
    record(database, case_id)
    review = a_review(database, settings, undo_seconds=0.0)
    decide(review, database, enrolled(database), case_id, Outcome.DEEPFAKE, Technique.FS)
    with database.transaction() as session:
        assert erase_case(session, case_id, actor="operator")

    record(database, case_id, gatherer="2")

    assert stored(database, case_id) is None


# --- read


def test_a_platform_reads_each_fact_with_what_it_cannot_tell_and_what_may_be_passed_on(
    database: Database, api: TestClient
) -> None:
    case_id = ready(database, analysis=an_analysis(verdict=bona_fide(), faces=(with_verdict(bona_fide()),)))
    before = api.get(f"/v1/cases/{case_id}")
    record(database, case_id)

    answer = api.get(f"/v1/cases/{case_id}", headers={"If-None-Match": before.headers["ETag"]})

    assert before.json()["evidence"] is None
    assert answer.status_code == 200  # evidence moves no case, and is new all the same
    evidence = answer.json()["evidence"]
    assert (evidence["declared"], evidence["strength"], evidence["conflict"]) == (
        "synthetic",
        "declared",
        True,
    )
    credentials, camera = evidence["facts"]
    assert "“Marguerite's =Studio”" in credentials["says"]
    assert credentials["cannot_tell"]
    assert "Marguerite" not in credentials["disclosable"]
    assert camera["disclosable"] is None
    (listed,) = [case for case in api.get("/v1/cases").json()["cases"] if case["id"] == str(case_id)]
    assert listed["evidence"] == evidence


def test_an_export_names_each_fact_in_every_form(database: Database) -> None:
    case_id = ready(database, analysis=an_analysis(verdict=bona_fide(), faces=(with_verdict(bona_fide()),)))
    record(database, case_id)
    out, table, parquet = io.BytesIO(), io.BytesIO(), io.BytesIO()

    counts = [
        export(database, What.EVIDENCE, form, to)
        for form, to in ((Format.JSONL, out), (Format.CSV, table), (Format.PARQUET, parquet))
    ]

    assert counts == [2, 2, 2]
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(row["kind"], row["points_to"], row["conflict"]) for row in rows] == [
        ("content_credentials", "synthetic", True),
        ("camera", None, True),
    ]
    assert json.loads(rows[1]["data"])["make"] == "Acme"


def test_a_statement_of_reasons_says_what_may_be_disclosed_and_no_name(
    database: Database, settings: Settings, api: TestClient
) -> None:
    case_id = ready(database)
    record(database, case_id)
    decide(
        a_review(database, settings), database, enrolled(database), case_id, Outcome.DEEPFAKE, Technique.FS
    )

    draft = api.get(f"/v1/cases/{case_id}/statement").json()

    assert "from an issuer that is not known, declare it synthetic" in draft["statement"]["decision_facts"]
    assert "Marguerite" not in json.dumps(draft)
    assert "Acme" not in json.dumps(draft)


# --- gathered by a worker


class Gathering(ScriptedDetector):
    """Its pictures come with evidence, as those of a child do."""

    def __init__(self, verdict: Verdict, fingerprint: str = "scripted") -> None:
        super().__init__(
            lambda crop: dataclasses.replace(with_verdict(verdict), face=crop.face),
            prepare=self._look,
            fingerprint=fingerprint,
        )
        self.found: Evidence | None = AI_MADE

    def _look(self, data: bytes) -> Prepared:
        return dataclasses.replace(one_face(data), evidence=self.found)


@pytest.fixture
def detector() -> Gathering:
    return Gathering(bona_fide())


@pytest.fixture
def station(settings: Settings, database_url: str, detector: Gathering) -> Iterator[Station]:
    """A worker with its own role in Postgres, and another bundle on trial that calls everything a deepfake."""
    role = SecretStr(as_role(database_url, "bonafide_worker"))
    chosen = settings.model_copy(update={"database_url": role})
    opened = open_station(chosen, detector, Gathering(a_verdict(), "other"))
    yield opened
    close_station(opened, why="the test ended")


def flagged(storage: Storage, database: Database, data: bytes = b"a picture", **fields: object) -> UUID:
    put = storage.put_image(f"evidence/{data.hex()}.jpg", data, "image/jpeg")
    return accepted(database, image=ImageRef(put.bucket, put.key), **fields)


def work_on(station: Station, case_id: UUID) -> None:
    run(station, ANALYZE, case_id)


def head_start(database: Database, case_id: UUID) -> float:
    """Seconds that the case was put forward, beside what its priority and doubt are worth."""
    with database.transaction() as session:
        return float(
            session.scalars(
                text("SELECT extract(epoch FROM ready_at - queued_at) FROM cases WHERE id = :id"),
                {"id": case_id},
            ).one()
        )


def test_a_worker_stores_what_came_with_the_picture_and_a_conflict_puts_the_case_forward(
    station: Station, database: Database, storage: Storage, detector: Gathering
) -> None:
    conflicting = flagged(storage, database, b"one")
    work_on(station, conflicting)
    detector.found = Evidence()
    plain = flagged(storage, database, b"two")
    work_on(station, plain)

    found = stored(database, conflicting)

    assert found is not None
    assert (found.evidence, found.gatherer) == (AI_MADE, station.gatherer)
    gained = head_start(database, conflicting) - head_start(database, plain)
    assert gained == pytest.approx(CONFLICT_SECONDS, abs=1)
    with database.transaction() as session:
        labels = set(session.scalars(text("SELECT label FROM analyses")))
    assert labels == {Label.BONA_FIDE}  # what is declared makes no verdict


def test_the_same_bytes_again_bring_the_same_evidence_without_another_look(
    station: Station, database: Database, storage: Storage, detector: Gathering
) -> None:
    work_on(station, flagged(storage, database))
    detector.found = None

    again = flagged(storage, database)
    work_on(station, again)

    found = stored(database, again)
    assert found is not None
    assert found.evidence == AI_MADE
    with database.transaction() as session:
        assert session.scalars(text("SELECT count(*) FROM analyses WHERE reused_from IS NOT NULL")).one() == 1


def test_an_analysis_anew_that_fits_what_is_declared_takes_the_case_back_to_its_place(
    station: Station, database: Database, storage: Storage
) -> None:
    case_id = flagged(storage, database)
    work_on(station, case_id)
    before = head_start(database, case_id)
    with database.transaction() as session:
        insert_reruns(session, "other", [case_id], shadow=False, asked_by="operator")
        rerun_id = session.scalars(text("SELECT id FROM reruns")).one()

    run(station, RERUN, rerun_id)

    with database.transaction() as session:
        assert session.scalars(text("SELECT label FROM cases")).one() == Label.DEEPFAKE
    assert before - head_start(database, case_id) > CONFLICT_SECONDS / 2
