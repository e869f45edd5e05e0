"""What reviewers decided becomes data: exported, fetched from the real store, cut out, read by what learns from it."""

import csv
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from moderation.cases import ImageRef
from moderation.cli.dfa import app
from moderation.database.connection import Database
from moderation.decisions import Outcome
from moderation.dfa.bench.manifest import read_manifest
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.pixels import crop_face, decode_picture
from moderation.dfa.instruct.builder import read_llava
from moderation.dfa.instruct.collect import Collected, collect
from moderation.dfa.train.calibrate import labelled_crops
from moderation.errors import SetupProblem
from moderation.local import Addresses
from moderation.people import Person
from moderation.reports.exports import Format, What, export
from moderation.settings import Settings
from moderation.settings import settings as read_settings
from moderation.storage import Storage
from tests.builders import a_face_analysis, an_analysis
from tests.integration.conftest import enrolled, ready
from tests.integration.deciding import a_review, decide

SIZE = 64


@pytest.fixture
def portrait(samples: Path) -> bytes:
    return (samples / "portrait-1.jpg").read_bytes()


class Desk:
    """One reviewer who decides on pictures that lie in the real store."""

    def __init__(self, database: Database, settings: Settings, storage: Storage, ada: Person) -> None:
        self.database, self.storage, self.ada = database, storage, ada
        self.reviews = {blind: a_review(database, settings, blind_first_share=blind) for blind in (0.0, 1.0)}

    def decide(
        self,
        picture: bytes,
        outcome: Outcome,
        *,
        blind: Outcome | None = None,
        key: str = "a.jpg",
        faces: int = 1,
    ) -> UUID:
        image = self.storage.put_image(key, picture, "image/jpeg")
        decoded = decode_picture(picture)
        face = replace(a_face_analysis(), face=find_faces(decoded, at_most=1)[0])
        case_id = ready(
            self.database, image=image, analysis=an_analysis(faces=(face,) * faces, picture=decoded.facts)
        )
        review = self.reviews[0.0 if blind is None else 1.0]
        decide(review, self.database, self.ada, case_id, outcome, blind=blind)
        return case_id

    def export(self, folder: Path) -> Path:
        file = folder / "feedback.jsonl"
        with file.open("wb") as out:
            export(self.database, What.FEEDBACK, Format.JSONL, out)
        return file

    def fetch(self, image: ImageRef) -> bytes:
        return self.storage.fetch_image(image).data


@pytest.fixture
def desk(database: Database, settings: Settings, storage: Storage, ada: Person) -> Desk:
    return Desk(database, settings, storage, ada)


def other_bytes(picture: bytes, number: int) -> bytes:
    """The same picture in other bytes: what follows a JPEG's end is not read."""
    return picture + bytes([number])


def taught(out: Path) -> list[str]:
    """The cases that training reads."""
    records = json.loads((out / "conversations.json").read_text())
    assert all((out / record["image"]).is_file() for record in records)
    return [record["id"].removesuffix("-0") for record in records]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_faces_that_were_decided_on_train_and_are_those_that_the_worker_cut(
    desk: Desk, portrait: bytes, tmp_path: Path
) -> None:
    case_id = desk.decide(portrait, Outcome.DEEPFAKE)

    collected = collect(desk.export(tmp_path), tmp_path / "out", desk.fetch, size=SIZE)

    assert collected == Collected(train=1, calibration=0, test=0, repeated=0, held_back=0)
    ((file, turns),) = read_llava(tmp_path / "out" / "conversations.json")
    assert taught(tmp_path / "out") == [str(case_id)]
    assert turns[0][1].startswith("Yes")
    picture = decode_picture(portrait)
    cut = crop_face(picture, find_faces(picture, at_most=1)[0], SIZE)
    assert np.array_equal(np.asarray(Image.open(file)), cut)


def test_what_was_judged_blind_calibrates_or_tests_and_never_trains(
    desk: Desk, portrait: bytes, tmp_path: Path
) -> None:
    blind = [Outcome.DEEPFAKE, Outcome.BONA_FIDE, Outcome.CANNOT_TELL] * 4
    for number, first in enumerate(blind):
        desk.decide(other_bytes(portrait, number), Outcome.BONA_FIDE, blind=first, key=f"{number}.jpg")
    led = desk.decide(other_bytes(portrait, 99), Outcome.BONA_FIDE, key="led.jpg")

    out = tmp_path / "out"
    collected = collect(desk.export(tmp_path), out, desk.fetch, size=SIZE)

    assert (collected.train, collected.held_back) == (1, 4)
    assert collected.calibration + collected.test == 8
    assert min(collected.calibration, collected.test) > 0
    told = rows(out / "calibration.csv") + rows(out / "test.csv")
    assert sorted(row["label"] for row in told) == ["bona_fide"] * 4 + ["deepfake"] * 4
    assert taught(out) == [str(led)]
    assert all(item.crop and item.split == "test" for item in read_manifest(out / "test.csv"))
    crops = labelled_crops(out / "calibration.csv", SIZE)
    assert (len(crops.crops), crops.without_face) == (collected.calibration, 0)


def test_of_several_decisions_about_the_same_bytes_the_newest_counts_and_they_stand_on_one_side(
    desk: Desk, portrait: bytes, tmp_path: Path
) -> None:
    desk.decide(portrait, Outcome.DEEPFAKE, key="first.jpg")
    newest = desk.decide(portrait, Outcome.BONA_FIDE, key="again.jpg")
    out = tmp_path / "out"

    collected = collect(desk.export(tmp_path), out, desk.fetch, size=SIZE)

    assert (collected.train, collected.repeated) == (1, 1)
    ((_, turns),) = read_llava(out / "conversations.json")
    assert (taught(out), turns[0][1][:2]) == ([str(newest)], "No")


def test_a_picture_that_was_judged_blind_does_not_train_whoever_decides_in_the_end(
    desk: Desk, database: Database, portrait: bytes, tmp_path: Path
) -> None:
    appealed = desk.decide(portrait, Outcome.DEEPFAKE, blind=Outcome.DEEPFAKE)
    review = desk.reviews[1.0]
    review.appeal(appealed, "it is I", actor="platform:test")
    decide(review, database, enrolled(database, "Grace"), appealed, Outcome.BONA_FIDE)
    desk.decide(portrait, Outcome.BONA_FIDE, key="again.jpg")

    collected = collect(desk.export(tmp_path), tmp_path / "out", desk.fetch, size=SIZE)

    assert (collected.train, collected.calibration, collected.test) == (0, 0, 0)
    assert (collected.repeated, collected.held_back) == (1, 1)


def test_the_blind_label_of_a_picture_with_several_faces_is_given_to_none_of_them(
    desk: Desk, portrait: bytes, tmp_path: Path
) -> None:
    desk.decide(portrait, Outcome.BONA_FIDE, blind=Outcome.DEEPFAKE, faces=3)

    collected = collect(desk.export(tmp_path), tmp_path / "out", desk.fetch, size=SIZE)

    assert collected == Collected(train=0, calibration=0, test=0, repeated=0, held_back=3)


def test_of_a_picture_with_several_faces_only_those_of_the_newest_decision_train(
    desk: Desk, portrait: bytes, tmp_path: Path
) -> None:
    desk.decide(portrait, Outcome.BONA_FIDE, key="first.jpg", faces=2)
    newest = desk.decide(portrait, Outcome.DEEPFAKE, key="again.jpg", faces=2)

    collected = collect(desk.export(tmp_path), tmp_path / "out", desk.fetch, size=SIZE)

    assert (collected.train, collected.repeated) == (1, 2)
    assert taught(tmp_path / "out") == [str(newest)]


def test_odd_ends_of_lines_within_a_name_end_no_record(desk: Desk, portrait: bytes, tmp_path: Path) -> None:
    case_id = desk.decide(portrait, Outcome.BONA_FIDE)
    feedback = desk.export(tmp_path)
    line = json.loads(feedback.read_text())
    line["facts"]["source"] = "profiles\u2028of\x85others"
    feedback.write_text(json.dumps(line, ensure_ascii=False) + "\n")

    collect(feedback, tmp_path / "out", desk.fetch, size=SIZE)

    assert taught(tmp_path / "out") == [str(case_id)]


def test_pictures_that_are_gone_or_are_others_by_now_are_counted_and_left_out(
    desk: Desk, portrait: bytes, tmp_path: Path
) -> None:
    kept = desk.decide(portrait, Outcome.BONA_FIDE)
    desk.decide(other_bytes(portrait, 1), Outcome.BONA_FIDE, key="changed.jpg")
    desk.decide(other_bytes(portrait, 2), Outcome.BONA_FIDE, key="gone.jpg")
    feedback = desk.export(tmp_path)
    lines = [json.loads(line) for line in feedback.read_text().splitlines()]
    for line in lines:
        line["facts"]["version_id"] = None
        line["facts"]["key"] = line["facts"]["key"].replace("gone", "never-there")
    feedback.write_text("\n".join(map(json.dumps, lines)))
    desk.storage.put_image("changed.jpg", portrait, "image/jpeg")

    collected = collect(feedback, tmp_path / "out", desk.fetch, size=SIZE)

    assert dict(collected.lost) == {"image_changed": 1, "image_missing": 1}
    assert taught(tmp_path / "out") == [str(kept)]


def test_it_goes_on_where_it_stopped_and_fetches_nothing_twice(
    desk: Desk, portrait: bytes, tmp_path: Path
) -> None:
    for number in range(3):
        desk.decide(other_bytes(portrait, number), Outcome.BONA_FIDE, key=f"{number}.jpg")
    feedback, fetched = desk.export(tmp_path), list[str]()

    def fetch(image: ImageRef) -> bytes:
        fetched.append(image.key)
        if len(fetched) == 2:
            raise ConnectionError("the network is away")
        return desk.fetch(image)

    with pytest.raises(ConnectionError):
        collect(feedback, tmp_path / "out", fetch, size=SIZE, parallel=1)
    collected = collect(feedback, tmp_path / "out", fetch, size=SIZE, parallel=1)

    assert collected.train == 3
    assert Counter(fetched) == {"0.jpg": 1, "1.jpg": 2, "2.jpg": 1}


@pytest.mark.parametrize(
    "content", ['{"id": "a"}', "not JSON", '["a list"]', "[1]"], ids=["too little", "text", "list", "number"]
)
def test_a_file_of_something_else_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "feedback.jsonl").write_text(content)

    with pytest.raises(SetupProblem, match="bonafide export feedback"):
        collect(tmp_path / "feedback.jsonl", tmp_path / "out", lambda _: b"", size=SIZE)


def test_the_command_reads_the_store_that_the_settings_name(
    desk: Desk, servers: Addresses, portrait: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.decide(portrait, Outcome.BONA_FIDE)
    for name, value in servers.settings().items():
        monkeypatch.setenv(name, value)
    read_settings.cache_clear()

    result = CliRunner().invoke(
        app, ["collect", str(desk.export(tmp_path)), "--out", str(tmp_path / "out"), "--json"]
    )

    read_settings.cache_clear()
    assert result.exit_code == 0, result.output
    told: Mapping[str, Any] = json.loads(result.stdout)
    assert (told["train"], told["lost"]) == (1, {})
    assert next((tmp_path / "out" / "images").iterdir()).suffix == ".png"
