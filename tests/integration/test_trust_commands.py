"""`bonafide certify`, `drift` and `hashes`, as an operator runs them; and what drift is looked for in."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, insert, select, text

from moderation.analysis import Label
from moderation.archive.erasure import erase_case
from moderation.database.connection import Database
from moderation.database.health import read_trust
from moderation.database.ids import first_id_at
from moderation.database.tables import AnalysisRow, CaseRow, CertificateRow, DriftLookRow
from moderation.decisions import Outcome
from moderation.evidence import zones
from moderation.evidence.related import record_likeness
from moderation.evidence.watch import look_at_sources, numbers_of
from moderation.likeness import Likeness, to_hex
from moderation.local import as_role
from moderation.presentation import face_json
from moderation.rollouts.rollout_rows import note_bundles
from moderation.settings import Settings
from tests.builders import a_face_analysis, an_analysis
from tests.integration.conftest import enrolled, ready, stored
from tests.integration.deciding import a_review, decide
from tests.integration.test_operator_commands import Command, bonafide
from tests.integration.test_zones import judged_blind

__all__ = ["bonafide"]

FINGERPRINT = an_analysis().fingerprint
DRAW = Random(18)


@pytest.fixture
def named(database: Database) -> None:
    """The bundle that scores come from is known by name."""
    with database.transaction() as session:
        note_bundles(session, {FINGERPRINT: "scripted 1"})


# --- certify


@pytest.mark.usefixtures("named")
def test_a_certificate_is_refused_with_the_reason_and_issued_when_labels_bear_it_out(
    bonafide: Command, database: Database, settings: Settings
) -> None:
    asked = ("certify", "--error", "0.4", "--confidence", "0.9", "--json")
    judged_blind(database, settings, [Outcome.BONA_FIDE])

    refused = bonafide(*asked, "--issue")

    assert refused.exit_code == 1
    said = json.loads(refused.output)
    assert (said["certified"], said["issued"]) == (None, None)
    assert "too few labels" in said["refused"]

    judged_blind(database, settings, [Outcome.BONA_FIDE] * 11)
    found, issued = bonafide(*asked), bonafide(*asked, "--issue")

    assert (found.exit_code, issued.exit_code) == (0, 0)
    assert json.loads(found.output)["issued"] is None
    with database.transaction() as session:
        (one,) = zones.certificates(session)
        (event,) = zones.log_of(session, one.id).events
    assert json.loads(issued.output)["issued"] == one.id
    assert (one.n, one.errors, one.issued_by, one.used_since) == (12, 0, "operator", None)
    assert (event.kind, event.actor) == ("issued", "operator")


@pytest.mark.usefixtures("named")
def test_certify_says_in_a_table_what_each_threshold_bears_out(
    bonafide: Command, database: Database, settings: Settings
) -> None:
    judged_blind(database, settings, [Outcome.BONA_FIDE] * 12)

    said = bonafide("certify", "--error", "0.4", "--confidence", "0.9", "--issue")

    assert said.exit_code == 0
    assert "judged blind" in said.output
    assert "an admin turns it on in the console" in said.output


def test_without_a_worker_there_is_nothing_to_certify(bonafide: Command) -> None:
    for command in ("certify", "drift"):
        refused = bonafide(command)
        assert refused.exit_code != 0
        assert "no worker was started here yet" in str(refused.exception)


# --- hashes


def test_a_list_goes_in_comes_out_and_is_forgotten(bonafide: Command, tmp_path: Path) -> None:
    hashes = [to_hex(DRAW.getrandbits(256)) for _ in range(3)]
    file = tmp_path / "list.csv"
    file.write_text("hash,reference\n" + "".join(f'{one},"no. {n}, a"\n' for n, one in enumerate(hashes)))

    assert bonafide("hashes", "import", "known", str(file), "--note", "n").output.startswith("3 of 3 ")
    assert bonafide("hashes", "import", "known", str(file)).output.startswith("0 of 3 ")
    assert json.loads(bonafide("hashes", "list", "--json").output) == {
        "name": "known",
        "hashes": 3,
        "note": "n",
    }
    assert "known" in bonafide("hashes", "list").output
    first, *lines = bonafide("hashes", "export", "known").output.splitlines()
    assert first == "hash,reference"
    assert set(lines) == {f'{one},"no. {n}, a"' for n, one in enumerate(hashes)}
    as_hma = bonafide("hashes", "export", "known", "--form", "hma").output.splitlines()
    assert set(as_hma) == {f"pdq {one}" for one in hashes}

    file.write_text("\n".join(as_hma))
    assert bonafide("hashes", "import", "theirs", str(file)).output.startswith("3 of 3 ")
    assert "known is forgotten" in bonafide("hashes", "remove", "known").output
    for refused in (bonafide("hashes", "remove", "known"), bonafide("hashes", "export", "known")):
        assert refused.exit_code != 0
        assert "there is no list known" in str(refused.exception)


def test_a_file_that_is_no_list_changes_nothing_and_names_its_line(bonafide: Command, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"{to_hex(1)}\nnonsense\n")

    refused = bonafide("hashes", "import", "known", str(file))

    assert "line 2" in str(refused.exception)
    assert bonafide("hashes", "list", "--json").output == ""


def test_what_people_decided_is_exported_for_a_bank(
    bonafide: Command, database: Database, settings: Settings
) -> None:
    case_id, frame = ready(database), DRAW.getrandbits(256)
    with database.transaction() as session:
        record_likeness(session, case_id, Likeness(frame, 1, 100))
    review = a_review(database, settings, undo_seconds=0.0)
    decide(review, database, enrolled(database), case_id, Outcome.DEEPFAKE)

    assert bonafide("hashes", "export").output.splitlines()[1:] == [f"{to_hex(frame)},{case_id}"]
    assert bonafide("hashes", "export", "--decided", "bona_fide").output.splitlines()[1:] == []


# --- drift


def cases(
    database: Database,
    n: int,
    *,
    days_ago: float,
    margin: float,
    view: float | None = None,
    source: str = "s",
) -> list[UUID]:
    """Cases with their analyses as a worker stored them so long ago, each of another picture."""
    at = datetime.now(UTC) - timedelta(days=days_ago)
    start, made = first_id_at(at).int, list[UUID]()
    rows_of_cases, rows = list[dict[str, Any]](), list[dict[str, Any]]()
    face = face_json(a_face_analysis()) | {"rationale": []}
    for number in range(n):
        case_id = UUID(int=start + 2 * number)
        seen = None if view is None else [round(2 * DRAW.gauss(view, 1)) / 2 for _ in range(8)]
        verdict = {"label": "bona_fide", "margin": DRAW.gauss(margin, 1), "score": 0.1, "calibrated": True}
        picture = {"width": DRAW.randint(600, 900), "height": 700, "size": DRAW.randint(60_000, 90_000)}
        rows_of_cases.append(
            {
                "id": case_id, "source": source, "request_digest": b"", "bucket": "b", "key": f"{case_id}",
                "priority": 0, "state": "ready", "version": 3, "ready_at": at, "queued_at": at,
                "analysis_id": UUID(int=start + 2 * number + 1), "label": Label.BONA_FIDE,
            }
        )  # fmt: skip
        rows.append(
            {
                "id": UUID(int=start + 2 * number + 1), "case_id": case_id, "fingerprint": FINGERPRINT,
                "bundle": "scripted 1", "image_sha256": case_id.bytes * 2, "picture": picture,
                "label": "bona_fide", "score": 0.1, "calibrated": True, "verdict": verdict,
                "faces": [face | {"view": seen}], "seconds": {},
            }
        )  # fmt: skip
        made.append(case_id)
    with database.transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(insert(CaseRow), rows_of_cases)
        session.execute(insert(AnalysisRow), rows)
    return made


def look(database: Database) -> dict[str, Any]:
    with database.transaction() as session:
        seen = look_at_sources(
            session,
            FINGERPRINT,
            now=datetime.now(UTC),
            late=timedelta(days=14),
            before=timedelta(days=60),
        )
    return {one.look.source: one for one in seen}


def test_each_source_is_held_against_its_own_past_and_examples_are_late_cases(database: Database) -> None:
    cases(database, 200, days_ago=30, margin=-3.0)
    late = cases(database, 200, days_ago=3, margin=-1.0)
    for days_ago in (30, 3):
        cases(database, 200, days_ago=days_ago, margin=0.0, source="as ever")
    cases(database, 20, days_ago=2, margin=0.0, source="new")

    seen = look(database)

    assert (seen["s"].look.alarm, seen["as ever"].look.alarm, seen["new"].look.p) == (True, False, None)
    assert (seen["s"].look.before, seen["s"].look.late) == (200, 200)
    assert seen["s"].look.shifted[0].name == "margin"
    assert set(seen["s"].examples) <= set(late)


def test_a_shift_that_only_the_tower_sees_is_found(database: Database) -> None:
    cases(database, 300, days_ago=30, margin=-3.0, view=0.0)
    cases(database, 300, days_ago=3, margin=-3.0, view=1.0)

    found = look(database)["s"].look

    assert found.alarm
    assert found.shifted[0].name.startswith("view_")


def test_a_source_with_a_certificate_is_held_against_its_days(database: Database) -> None:
    now = datetime.now(UTC)
    cases(database, 200, days_ago=200, margin=-3.0)
    cases(database, 200, days_ago=3, margin=-3.0)
    assert look(database)["s"].look.p is None  # nothing in the two months before
    with database.transaction() as session:
        session.execute(
            insert(CertificateRow).values(
                source="s", fingerprint=FINGERPRINT, zone="clear", threshold=0.1, error=0.01, confidence=0.95,
                n=600, errors=0, bound=0.008, since=now - timedelta(days=210), until=now - timedelta(days=190),
                issued_by="operator", expires_at=now + timedelta(days=9),
            )
        )  # fmt: skip

    found = look(database)["s"].look

    assert (found.before, found.alarm) == (200, False)


def test_one_picture_flagged_many_times_is_one_case(database: Database) -> None:
    cases(database, 150, days_ago=30, margin=-3.0)
    copies = cases(database, 150, days_ago=3, margin=-3.0)
    with database.transaction() as session:
        session.execute(text("UPDATE cases SET campaign = 7 WHERE id = ANY (:ids)"), {"ids": copies})

    assert look(database)["s"].look.late == 1


@pytest.mark.usefixtures("named")
def test_the_command_says_what_shifted_is_an_alarm_and_is_kept_for_metrics(
    bonafide: Command, database: Database
) -> None:
    cases(database, 200, days_ago=30, margin=-3.0)
    late = cases(database, 200, days_ago=3, margin=-1.0)

    told, printed = bonafide("drift", "--json"), bonafide("drift")

    assert (told.exit_code, printed.exit_code) == (1, 1)
    line = json.loads(told.output)
    assert (line["source"], line["alarm"], line["shifted"][0]["name"]) == ("s", True, "margin")
    assert {UUID(one) for one in line["examples"]} <= set(late)
    assert "s: DRIFT" in printed.output
    with database.transaction() as session:
        rows = session.scalars(select(DriftLookRow)).all()
        trust = read_trust(session)
    assert [(row.source, row.alarm, len(row.examples)) for row in rows] == [("s", True, 5)] * 2
    assert trust.drifted == {"s": True}
    assert trust.looked_seconds is not None


@pytest.mark.usefixtures("named")
def test_the_sweeper_s_rights_are_enough_to_look_and_to_write_down(
    bonafide: Command, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases(database, 60, days_ago=30, margin=-3.0)
    cases(database, 60, days_ago=3, margin=-3.0)
    monkeypatch.setenv("BONAFIDE_DATABASE_URL", as_role(database_url, "bonafide_sweeper"))

    assert bonafide("drift").exit_code == 0
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(DriftLookRow)) == 1


def test_what_a_case_lacks_is_none_and_a_view_is_eight_numbers() -> None:
    picture = {"width": 100, "height": 50, "size": 5000}

    assert numbers_of({}, picture, 0)["margin"] is None
    assert numbers_of({}, picture, 1, [0.5, -1.0])["view_1"] == -1.0


def test_erasing_takes_what_the_tower_saw_and_a_platform_is_never_told(
    database: Database, settings: Settings, api: TestClient
) -> None:
    face = a_face_analysis()
    seen = type(face)(face.face, face.verdict, face.rationale, view=(0.5, -1.0))
    case_id = ready(database, analysis=an_analysis(faces=(seen,)))
    with database.transaction() as session:
        kept = session.scalars(text("SELECT faces -> 0 -> 'view' FROM analyses")).one()
    assert kept == [0.5, -1.0]
    assert "view" not in api.get(f"/v1/cases/{case_id}").json()["faces"][0]
    review = a_review(database, settings, undo_seconds=0.0)
    decide(review, database, enrolled(database), case_id, Outcome.DEEPFAKE)

    with database.transaction() as session:
        assert erase_case(session, case_id, actor="operator")

    assert stored(database, case_id).erased_at is not None
    with database.transaction() as session:
        assert session.scalars(text("SELECT faces -> 0 -> 'view' FROM analyses")).one() is None
