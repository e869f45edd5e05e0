"""Exports of what real reviewers decided, read back with other people's readers."""

import codecs
import csv
import io
import itertools
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from moderation.analysis import Abstain, Technique
from moderation.database.connection import Database
from moderation.decisions import Answer, Outcome
from moderation.dfa.gpt.prompts import load_prompts
from moderation.dfa.instruct.builder import read_llava
from moderation.errors import SetupProblem
from moderation.people import Person
from moderation.presentation import effect_json
from moderation.reports.exports import COLUMNS, Format, What, export, read_wording
from moderation.review import Review
from moderation.rollouts.rollout_rows import BundleFacts, note_bundles
from moderation.settings import Settings
from tests.builders import (
    a_face_analysis,
    an_analysis,
    an_artifact,
    an_effect,
    bona_fide,
    new_id,
    undecided,
    with_verdict,
)
from tests.integration.conftest import enrolled, ready, refused
from tests.integration.deciding import a_review, decide

DEEPFAKE, BONA_FIDE, CANNOT_TELL = Outcome.DEEPFAKE, Outcome.BONA_FIDE, Outcome.CANNOT_TELL


@pytest.fixture
def review(database: Database, settings: Settings) -> Review:
    return a_review(database, settings)


def exported(database: Database, what: What, form: Format, **period: Any) -> bytes:
    out = io.BytesIO()
    export(database, what, form, out, **period)
    return out.getvalue()


def lines(database: Database, what: What, **period: datetime) -> list[dict[str, Any]]:
    return [json.loads(line) for line in exported(database, what, Format.JSONL, **period).splitlines()]


def table(database: Database, what: What) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exported(database, what, Format.CSV).decode())))


def parquet(database: Database, what: What) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(io.BytesIO(exported(database, what, Format.PARQUET))).to_pylist()


def test_decisions_are_the_same_in_every_form(database: Database, review: Review, ada: Person) -> None:
    decision = decide(review, database, ada, ready(database, external_id="upload-7"), DEEPFAKE, Technique.FS)
    decide(review, database, ada, refused(database), CANNOT_TELL)

    in_lines, in_table = lines(database, What.DECISIONS), table(database, What.DECISIONS)
    in_parquet = parquet(database, What.DECISIONS)

    for rows in (in_lines, in_table, in_parquet):
        assert [tuple(row) for row in rows] == [COLUMNS[What.DECISIONS]] * 2
        assert (rows[0]["decision"], rows[0]["external_id"]) == (str(decision.id), "upload-7")
        assert (rows[0]["outcome"], rows[0]["technique"]) == ("deepfake", "FS")
    assert in_lines[0]["score"] == in_parquet[0]["score"] == float(in_table[0]["score"])
    assert in_parquet[0]["created_at"] == decision.created_at
    assert datetime.fromisoformat(in_table[0]["created_at"]) == decision.created_at
    assert (in_lines[1]["verdict"], in_parquet[1]["score"], in_table[1]["score"]) == (None, None, "")


def test_no_export_names_a_reviewer(database: Database, review: Review, ada: Person) -> None:
    decide(review, database, ada, ready(database), DEEPFAKE, answers=(Answer.AGREE,))

    everything = b"".join(exported(database, what, form) for what in What for form in Format)

    assert ada.email.encode() not in everything
    assert b"Ada" not in everything


def test_analyses_hold_their_numbers(database: Database) -> None:
    shown = an_analysis(faces=(a_face_analysis(), with_verdict(bona_fide())))
    case_id = ready(database, analysis=shown)

    (line,) = lines(database, What.ANALYSES)
    (row,) = parquet(database, What.ANALYSES)

    assert line["case"] == str(case_id)
    assert (line["score"], line["margin"]) == (shown.verdict.score, shown.verdict.margin)
    assert (row["faces"], row["artifacts"]) == (2, len(shown.faces[0].rationale))
    assert (row["width"], row["height"], row["image_sha256"]) == (640, 480, "ab" * 32)


FORMULA_SIGNS = ["=", "+", "-", "@", "＝", "＋", "－", "＠"]  # full width: Excel takes them too


@pytest.mark.parametrize("begins", [*FORMULA_SIGNS, "\t", "\r", "\n"])
def test_a_cell_never_begins_a_formula(database: Database, begins: str) -> None:
    ready(database, external_id=f"{begins}HYPERLINK(1)", source="=cmd")

    (row,) = table(database, What.ANALYSES)

    assert row["external_id"] == f"'{begins}HYPERLINK(1)"
    assert row["source"] == "'=cmd"
    assert lines(database, What.ANALYSES)[0]["source"] == "=cmd"  # JSON is no spreadsheet


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_spreadsheet_of_another_list_separator_finds_no_formula_either(
    database: Database, separator: str
) -> None:
    befores = ["a;", ";", "a\t", "a\r\n", "a; ", 'a;"', "a;'", "a;;\u00a0"]
    for before, sign in itertools.product(befores, FORMULA_SIGNS):
        ready(database, external_id=f"{before}{sign}HYPERLINK(1)")

    written = exported(database, What.ANALYSES, Format.CSV).decode()

    cells = [cell for row in csv.reader(io.StringIO(written), delimiter=separator) for cell in row]
    # Programs drop white space, and quotes that they take for a cell's own, before they look.
    read = [cell.strip().strip('"').strip() for cell in cells]
    assert sum("HYPERLINK" in cell for cell in read) == len(befores) * len(FORMULA_SIGNS)
    assert not [cell for cell in read if cell.startswith(tuple(FORMULA_SIGNS)) and not _is_number(cell)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("prose", ["one; two", "a+b=c", "well-known", "x - y", "mail@example.org", "a ; b"])
def test_prose_with_signs_in_it_is_left_as_it_is(database: Database, prose: str) -> None:
    ready(database, external_id=prose)

    assert table(database, What.ANALYSES)[0]["external_id"] == prose


def test_a_mark_for_excel_is_put_before_csv_alone(database: Database) -> None:
    ready(database)
    marked, plain = io.BytesIO(), io.BytesIO()

    rows = export(database, What.ANALYSES, Format.CSV, marked, mark=True)
    export(database, What.ANALYSES, Format.JSONL, plain, mark=True)

    assert rows == 1
    assert marked.getvalue() == codecs.BOM_UTF8 + exported(database, What.ANALYSES, Format.CSV)
    assert plain.getvalue().startswith(b"{")


def test_a_negative_number_stays_a_number(database: Database) -> None:
    ready(database, analysis=an_analysis(faces=(with_verdict(bona_fide()),)))

    assert float(table(database, What.ANALYSES)[0]["margin"]) < 0


def test_text_with_commas_quotes_and_lines_comes_back_whole(database: Database) -> None:
    odd = 'a,b "c"\nd'
    ready(database, external_id=odd)

    assert table(database, What.ANALYSES)[0]["external_id"] == odd


def test_a_period_is_kept(database: Database, review: Review, ada: Person) -> None:
    decide(review, database, ada, ready(database), DEEPFAKE)
    now = datetime.now(UTC)

    assert len(lines(database, What.DECISIONS, since=now - timedelta(minutes=1))) == 1
    assert lines(database, What.DECISIONS, since=now + timedelta(minutes=1)) == []
    assert lines(database, What.DECISIONS, until=now - timedelta(minutes=1)) == []


# --- feedback


def test_feedback_is_a_conversation_that_training_reads(
    database: Database, review: Review, ada: Person, tmp_path: Path
) -> None:
    mouth = an_artifact(heading="Mouth", text="The lips are smeared.")
    eyes = an_artifact(heading="Eyes", text="The eyes differ.")
    skin = an_artifact(heading="Skin", text="The skin is waxen.")
    face = a_face_analysis(rationale=(mouth, eyes, skin))
    forged = ready(database, analysis=an_analysis(faces=(face,)))
    genuine = ready(database)
    answers = (Answer.AGREE, Answer.DISAGREE, Answer.AGREE)
    decide(review, database, ada, forged, DEEPFAKE, Technique.FE, answers=answers)
    decide(review, database, ada, genuine, BONA_FIDE)

    records = lines(database, What.FEEDBACK)
    (tmp_path / "conversations.json").write_text(json.dumps(records))
    read = dict(read_llava(tmp_path / "conversations.json"))

    prompts = load_prompts()
    of_forged = read[tmp_path / f"images/{forged}-0.jpg"]
    assert of_forged == [
        (prompts.detection[0], prompts.verdict_answer(deepfake=True)),
        (prompts.classification[0], prompts.technique_answers[Technique.FE]),
        (
            prompts.description[0],
            prompts.artifacts_answer([("Mouth", "The lips are smeared."), ("Skin", "The skin is waxen.")]),
        ),
    ]
    assert read[tmp_path / f"images/{genuine}-0.jpg"] == [
        (prompts.detection[0], prompts.verdict_answer(deepfake=False)),
        (prompts.description[0], prompts.no_artifacts),
    ]
    assert "<image>" in records[0]["conversations"][0]["value"]
    assert records[0]["facts"]["key"] == "photo.jpg"
    assert records[0]["facts"]["box"] == list(face.face.box)


def test_a_conversation_is_worded_as_the_bundle_was_asked(
    database: Database, review: Review, ada: Person
) -> None:
    with database.transaction() as session:
        note_bundles(session, {"f2": "small 1"}, {"f2": BundleFacts(None, prompts=2)})
    case_id = ready(database, analysis=an_analysis(fingerprint="f2"))
    decide(review, database, ada, case_id, BONA_FIDE)

    (record,) = lines(database, What.FEEDBACK)

    prompts = load_prompts(2)
    said = [turn["value"] for turn in record["conversations"]]
    assert said == [
        f"<image>\n{prompts.detection[0]}",
        prompts.verdict_answer(deepfake=False),
        prompts.description[0],
        prompts.no_artifacts,
    ]
    assert record["facts"]["prompts"] == 2


def test_a_prompt_set_of_another_release_is_not_made_up() -> None:
    with pytest.raises(SetupProblem, match="prompt set 99"):
        read_wording(99)


@pytest.mark.parametrize("version", [1, 2])
def test_the_wording_is_that_of_the_prompt_set(version: int) -> None:
    wording, prompts = read_wording(version), load_prompts(version)

    assert wording.version == prompts.version
    assert wording.image == prompts.image
    assert wording.detection == prompts.detection[0]
    assert (wording.yes, wording.no) == tuple(prompts.verdict_answer(deepfake=said) for said in (True, False))
    assert wording.techniques == prompts.technique_answers
    assert wording.none == prompts.no_artifacts


@pytest.mark.parametrize(
    ("agreed", "settled"),
    [
        pytest.param(None, [0], id="the face that the model and the reviewer hold to be forged"),
        pytest.param((0, 1), [0, 1], id="and every face whose artifacts were agreed to"),
    ],
)
def test_only_faces_whose_label_is_settled_are_taught(
    database: Database, review: Review, ada: Person, agreed: tuple[int, ...] | None, settled: list[int]
) -> None:
    shown = an_analysis(faces=(a_face_analysis(), a_face_analysis(), with_verdict(bona_fide())))
    case_id = ready(database, analysis=shown)
    decision = decide(review, database, ada, case_id, DEEPFAKE)
    with database.transaction() as session:
        for face in agreed or ():
            session.execute(
                text(
                    "INSERT INTO artifact_answers SELECT :d, analysis_id, :f, 1, 'agree'"
                    " FROM decisions WHERE id = :d"
                ),
                {"d": decision.id, "f": face},
            )

    assert [one["id"] for one in lines(database, What.FEEDBACK)] == [f"{case_id}-{face}" for face in settled]


def test_a_face_that_the_model_was_never_shown_is_not_taught(
    database: Database, review: Review, ada: Person
) -> None:
    never_shown = (Abstain.FACE_TOO_SMALL, Abstain.FACES_NOT_JUDGED)
    faces = (a_face_analysis(), *(with_verdict(undecided(why, score=None)) for why in never_shown))
    case_id = ready(database, analysis=an_analysis(faces=faces))
    decide(review, database, ada, case_id, BONA_FIDE)

    assert [one["id"] for one in lines(database, What.FEEDBACK)] == [f"{case_id}-0"]


def test_what_is_not_settled_is_not_taught(
    database: Database, settings: Settings, review: Review, ada: Person
) -> None:
    grace = enrolled(database, "Grace")
    unsure, refused_case, appealed, overturned, fresh = (
        ready(database),
        refused(database),
        ready(database),
        ready(database),
        ready(database),
    )
    decide(review, database, ada, unsure, CANNOT_TELL)
    decide(review, database, ada, refused_case, DEEPFAKE)  # no face is known
    for case_id in (appealed, overturned):
        decide(review, database, ada, case_id, DEEPFAKE)
        review.appeal(case_id, "it is I", actor="platform:test")
    decide(review, database, grace, overturned, BONA_FIDE)
    decide(a_review(database, settings, undo_seconds=60.0), database, ada, fresh, DEEPFAKE)

    taught = lines(database, What.FEEDBACK)

    assert [one["facts"]["case"] for one in taught] == [str(overturned)]
    assert taught[0]["facts"]["label"] == "bona_fide"


def test_feedback_as_a_table_has_a_row_for_each_answer(
    database: Database, review: Review, ada: Person
) -> None:
    rationale = (an_artifact(heading="Mouth"), an_artifact(heading="Eyes"))
    shown = an_analysis(faces=(a_face_analysis(rationale=rationale),))
    decide(
        review,
        database,
        ada,
        ready(database, analysis=shown),
        DEEPFAKE,
        answers=(Answer.AGREE, Answer.UNCLEAR),
    )

    rows = table(database, What.FEEDBACK)

    assert [(row["heading"], row["answer"], row["ordinal"]) for row in rows] == [
        ("Mouth", "agree", "1"),
        ("Eyes", "unclear", "2"),
    ]
    assert parquet(database, What.FEEDBACK)[1]["ordinal"] == 2


def test_an_answer_carries_whether_the_score_bears_it_out(
    database: Database, review: Review, ada: Person
) -> None:
    effects = (an_effect(), an_effect(margin_fall=0.1), None)
    rationale = tuple(an_artifact(effect=effect) for effect in effects)
    shown = an_analysis(faces=(a_face_analysis(rationale=rationale),))
    case_id = ready(database, analysis=shown)
    decide(review, database, ada, case_id, DEEPFAKE, answers=(Answer.AGREE, Answer.DISAGREE, Answer.UNCLEAR))

    rows = table(database, What.FEEDBACK)
    (record,) = lines(database, What.FEEDBACK)

    assert [row["supported"] for row in rows] == ["True", "False", ""]
    assert [row["score_without"] for row in rows] == ["0.41", "0.41", ""]
    assert parquet(database, What.FEEDBACK)[0]["control_fall"] == 0.2
    told = record["facts"]["artifacts"]
    assert [one["answer"] for one in told] == ["agree", "disagree", "unclear"]
    assert told[0]["effect"] == effect_json(an_effect())
    assert told[2]["effect"] is None


# --- a statement of reasons


def test_a_platform_drafts_a_statement_for_the_decision_that_stands(
    api: TestClient, database: Database, review: Review, ada: Person
) -> None:
    case_id, undecided_case, genuine = ready(database), ready(database), ready(database)
    decision = decide(review, database, ada, case_id, DEEPFAKE, Technique.FS)
    decide(review, database, ada, genuine, BONA_FIDE)

    draft = api.get(f"/v1/cases/{case_id}/statement?harm=impersonation&restriction=removed")
    none = api.get(f"/v1/cases/{undecided_case}/statement")

    sent = draft.json()["statement"]
    assert draft.json()["decision"] == str(decision.id)
    assert sent["category_specification"] == ["KEYWORD_IMPERSONATION_ACCOUNT_HIJACKING"]
    assert sent["decision_visibility"] == ["DECISION_VISIBILITY_CONTENT_REMOVED"]
    assert "because" not in draft.text  # what the reviewer wrote
    assert api.get(f"/v1/cases/{genuine}/statement").json()["statement"] is None
    assert (none.status_code, none.json()["code"]) == (404, "nothing_decided")
    assert api.get(f"/v1/cases/{new_id()}/statement").json()["code"] == "case_not_found"


# --- size


def test_an_export_of_many_rows_takes_the_memory_of_a_few(database: Database) -> None:
    template = ready(database)
    with database.transaction() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))  # what it checks is made right
        session.execute(
            text("""
                WITH many AS (
                    INSERT INTO cases (id, source, request_digest, bucket, key, priority, state, version, analysis_id)
                    SELECT gen_random_uuid(), 'many', '', 'flagged', 'photo.jpg', 0, 'ready', 1, gen_random_uuid()
                    FROM generate_series(1, 30000) RETURNING id, analysis_id
                )
                INSERT INTO analyses (id, case_id, fingerprint, bundle, image_sha256, picture, label, calibrated,
                                      verdict, faces, seconds)
                SELECT many.analysis_id, many.id, fingerprint, bundle, image_sha256,
                       picture || jsonb_build_object('notes', jsonb_build_array(repeat('x', 500))), label, calibrated,
                       verdict, faces, seconds
                FROM analyses, many WHERE case_id = :template
            """),
            {"template": template},
        )

    class Sink(io.RawIOBase):
        written = 0

        def write(self, data: Any) -> int:
            self.written += len(data)
            return len(data)

    sink = Sink()
    tracemalloc.start()
    rows = export(database, What.ANALYSES, Format.CSV, sink)  # pyright: ignore[reportArgumentType]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert rows == 30_001
    assert sink.written > 5_000_000
    assert peak < 4_000_000


def test_an_empty_installation_exports_nothing(database: Database) -> None:
    assert [lines(database, what) for what in What] == [[]] * len(What)
    assert [parquet(database, what) for what in What] == [[]] * len(What)
