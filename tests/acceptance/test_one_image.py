"""One image through the real processes: API, Postgres, broker, store, worker, model, and back."""

from pathlib import Path

import pytest
from sqlalchemy import text

from moderation.analysis import Abstain, Label
from moderation.cases import CaseState, ImageRef
from moderation.client import ApiProblem, BonaFide
from moderation.database.connection import Database
from moderation.database.events import read_chain
from moderation.local import BUCKET
from tests.builders import new_id


def test_a_portrait_comes_back_with_a_verdict_and_its_face(
    client: BonaFide, owner: Database, samples: Path, tmp_path: Path
) -> None:
    # Bytes of its own: what another test submitted would be answered from that analysis, and take no time.
    (tmp_path / "one.jpg").write_bytes((samples / "portrait-1.jpg").read_bytes() + b"one")
    opened = client.submit_file(tmp_path / "one.jpg", external_id="one", context={"user": 7})

    case = client.wait(opened.id, timeout=60)

    assert case.state is CaseState.READY
    assert case.refusal is None
    assert case.verdict is not None
    assert case.verdict.score is not None
    assert len(case.faces) == 1
    assert case.picture is not None
    left, top, right, bottom = case.faces[0].box
    assert 0 <= left < right <= case.picture.width
    assert 0 <= top < bottom <= case.picture.height
    assert case.context == {"user": 7}
    assert case.timings is not None
    assert {"fetch", "decode", "faces", "queue", "engine"} <= set(case.timings)
    with owner.transaction() as session:
        chain = read_chain(session, case.id)
    assert chain.broken_at is None
    assert [event.kind for event in chain.events] == ["accepted", "analysis_begun", "analyzed"]


def test_the_same_bytes_again_are_answered_from_the_first_analysis(client: BonaFide, samples: Path) -> None:
    picture = samples / "portrait-2.jpg"
    first = client.wait(client.submit_file(picture).id, timeout=60)

    again = client.wait(client.submit_file(picture).id, timeout=60)

    assert again.id != first.id
    assert again.reused_from is not None
    assert again.verdict == first.verdict
    assert again.faces == first.faces


def test_the_same_file_flagged_again_with_its_external_id_is_the_same_case(
    client: BonaFide, samples: Path
) -> None:
    flag = {"external_id": "photo-1", "reason": "user report"}

    first = client.submit_file(samples / "portrait-3.jpg", **flag)
    again = client.submit_file(samples / "portrait-3.jpg", **flag)

    assert again.id == first.id


def test_a_picture_without_a_face_is_undetermined_and_says_why(client: BonaFide, samples: Path) -> None:
    case = client.wait(client.submit_file(samples / "no-face.jpg").id, timeout=60)

    assert case.verdict is not None
    assert (case.verdict.label, case.verdict.abstain) == (Label.UNDETERMINED, Abstain.NO_FACE)


def test_a_broken_file_goes_to_a_person_with_the_reason(client: BonaFide, samples: Path) -> None:
    case = client.wait(client.submit_file(samples / "truncated.jpg").id, timeout=60)

    assert (case.state, case.verdict, case.refusal) == (CaseState.READY, None, "image_corrupt")
    assert case.refusal_message


def test_an_image_that_is_not_there_goes_to_a_person_too(client: BonaFide) -> None:
    case = client.wait(client.submit(ImageRef(BUCKET, "nobody/put/this.jpg")).id, timeout=60)

    assert case.refusal == "image_missing"


def test_the_client_says_what_the_api_said(client: BonaFide) -> None:
    with pytest.raises(ApiProblem) as refused:
        client.submit(ImageRef("not-ours", "a.jpg"))
    assert (refused.value.status, refused.value.code) == (422, "bucket_not_allowed")

    with pytest.raises(ApiProblem) as unknown:
        client.case(new_id())
    assert unknown.value.code == "case_not_found"


def test_every_process_works_with_a_role_of_its_own(owner: Database) -> None:
    with owner.transaction() as session:
        actors = set(session.scalars(text("SELECT DISTINCT split_part(actor, ':', 1) FROM events")))
        alive = set(session.scalars(text("SELECT DISTINCT split_part(process, ':', 1) FROM heartbeats")))

    assert actors >= {"platform", "worker"}
    assert alive == {"worker", "sweeper"}
