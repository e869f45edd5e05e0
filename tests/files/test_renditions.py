"""What browsers cannot show is shown all the same, and lists have small pictures: made by workers, gone when erased."""

import io
from collections.abc import Iterator
from functools import partial
from uuid import UUID

import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from sqlalchemy import text

from moderation.analysis import FaceAnalysis, PictureFacts
from moderation.archive.erasure import erase_case
from moderation.cases import CaseState
from moderation.database.connection import Database
from moderation.database.renditions import (
    Renditions,
    find_thumbnail,
    find_viewable,
    forget_renditions,
    is_rendered,
    record_renditions,
    renditions_of,
    with_thumbnails,
)
from moderation.decisions import Outcome
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.dfa.gpt.pixels import Picture, PixelLimits, decode_picture
from moderation.dispatch import Publisher
from moderation.errors import BonafideError, ImageCorrupt
from moderation.local import as_role
from moderation.questions import Questions
from moderation.settings import Settings
from moderation.storage import Storage
from tests.builders import a_verdict, new_id
from tests.fakes import ScriptedDetector, a_crop
from tests.files import coloured, stored_otherwise, turned
from tests.integration.conftest import accepted, enrolled, ready, stored
from tests.integration.deciding import a_review, decide
from worker.analysis import ANALYZE
from worker.answers import ANSWER
from worker.lifecycle import close_station, open_station
from worker.renditions import MOST_PIXELS, render, with_renditions
from worker.run import run
from worker.station import Station

DECODE = with_renditions(partial(decode_picture, limits=PixelLimits(heic=True)))
SMALL = Renditions(b"small", None)


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    return Image.open(io.BytesIO(data))


def rendered(data: bytes) -> Renditions:
    renditions = DECODE(data).renditions
    assert isinstance(renditions, Renditions)
    return renditions


# --- made


@pytest.mark.parametrize("name", [name for name, _ in stored_otherwise.files()])
def test_of_what_browsers_do_not_show_there_is_a_jpeg_that_looks_the_same(name: str) -> None:
    picture = DECODE(dict(stored_otherwise.files())[name])

    assert isinstance(picture.renditions, Renditions)
    shown = opened(picture.renditions.shown)
    assert shown.format == "JPEG"
    assert np.abs(np.array(shown).astype(int) - picture.pixels).mean() < 4
    assert opened(picture.renditions.thumbnail).format == "JPEG"


def test_of_what_browsers_show_there_is_a_thumbnail_alone() -> None:
    for name, data in coloured.files():
        assert rendered(data).shown is None, name


def test_a_thumbnail_is_small_and_keeps_its_shape() -> None:
    thumbnail = opened(render(a_picture(1500, 3000, "PNG")).thumbnail)

    assert thumbnail.size == (96, 192)


def test_a_small_picture_is_not_made_larger() -> None:
    assert opened(rendered(turned.png()).thumbnail).size == (turned.WIDTH, turned.HEIGHT)


def test_what_is_shown_has_as_many_pixels_as_a_browser_may_be_sent() -> None:
    shown = opened(render(a_picture(6000, 4000, "TIFF")).shown)

    assert 0.99 < shown.width * shown.height / MOST_PIXELS < 1.01
    assert shown.width / shown.height == pytest.approx(1.5, rel=0.01)


def a_picture(width: int, height: int, kind: str) -> Picture:
    pixels = np.full((height, width, 3), 90, np.uint8)
    return Picture(pixels, PictureFacts(sha256="", size=0, format=kind, width=width, height=height))


# --- kept


class Looking(ScriptedDetector):
    """Decodes, finds one face, and cannot judge it when it is told so."""

    def __init__(self) -> None:
        super().__init__(script=self._say, prepare=self._look)
        self.fails = False

    def _look(self, data: bytes) -> Prepared:
        picture = DECODE(data)
        seconds = {"decode": 0.0, "faces": 0.0}
        return Prepared(picture.facts, (a_crop(),), (), seconds, None, picture.renditions)

    def _say(self, crop: FaceCrop) -> FaceAnalysis | BonafideError:
        return ImageCorrupt("nobody can tell") if self.fails else FaceAnalysis(crop.face, a_verdict())


@pytest.fixture
def detector() -> Looking:
    return Looking()


@pytest.fixture
def station(settings: Settings, database_url: str, detector: Looking) -> Iterator[Station]:
    """A worker with its own role in Postgres."""
    role = SecretStr(as_role(database_url, "bonafide_worker"))
    opened_station = open_station(settings.model_copy(update={"database_url": role}), detector, decode=DECODE)
    yield opened_station
    close_station(opened_station, why="the test ended")


def analysed(station: Station, storage: Storage, database: Database, data: bytes) -> UUID:
    image = storage.put_image(f"files/{new_id()}", data, "image/tiff")
    case_id = accepted(database, image=image)
    run(station, ANALYZE, case_id)
    assert stored(database, case_id).state is CaseState.READY
    return case_id


def test_a_worker_keeps_both_with_the_analysis(
    station: Station, storage: Storage, database: Database
) -> None:
    lab = analysed(
        station, storage, database, stored_otherwise.tiff(stored_otherwise.as_lab(turned.stored()))
    )
    png = analysed(station, storage, database, turned.png())

    with database.transaction() as session:
        assert turned.position(np.array(opened(find_viewable(session, lab)))) == 1
        assert is_rendered(session, lab)
        assert find_viewable(session, png) is None
        assert not is_rendered(session, png)
        assert turned.position(np.array(opened(find_thumbnail(session, png)))) == 1
        assert with_thumbnails(session, [lab, png, new_id()]) == {lab, png}


def test_what_was_said_of_the_same_bytes_before_comes_with_its_renditions(
    station: Station, storage: Storage, database: Database
) -> None:
    data = stored_otherwise.tiff(turned.stored())
    first, second = (analysed(station, storage, database, data) for _ in range(2))

    with database.transaction() as session:
        assert renditions_of(session, second) == renditions_of(session, first) is not None


def test_a_picture_that_the_model_could_not_judge_is_shown_to_a_person_all_the_same(
    station: Station, storage: Storage, database: Database, detector: Looking
) -> None:
    detector.fails = True

    case_id = analysed(station, storage, database, stored_otherwise.tiff(turned.stored()))

    assert stored(database, case_id).refusal is not None
    with database.transaction() as session:
        assert is_rendered(session, case_id)


def test_a_question_makes_them_again_where_they_are_gone(
    station: Station, storage: Storage, database: Database, settings: Settings
) -> None:
    """Of a case that was decided long ago, or that came back from an archive."""
    case_id = analysed(station, storage, database, stored_otherwise.tiff(turned.stored()))
    with database.transaction() as session:
        session.execute(text("DELETE FROM renditions"))
    questions = Questions(database, Publisher(settings.broker_url.get_secret_value(), at_most=10))

    run(station, ANSWER, questions.ask(case_id, "What is wrong here?", actor="platform:test").id)

    with database.transaction() as session:
        assert is_rendered(session, case_id)


# --- gone


def test_erasing_a_case_takes_them(database: Database, settings: Settings) -> None:
    case_id = ready(database)
    keep(database, case_id)
    decide(a_review(database, settings), database, enrolled(database, "Ada"), case_id, Outcome.BONA_FIDE)

    with database.transaction() as session:
        assert find_thumbnail(session, case_id) == b"small"
        assert erase_case(session, case_id, actor="operator")

    with database.transaction() as session:
        assert renditions_of(session, case_id) is None
        record_renditions(session, case_id, SMALL)
        assert renditions_of(session, case_id) is None


def test_a_case_that_leaves_for_an_archive_takes_none_along(database: Database) -> None:
    case_id = ready(database)
    keep(database, case_id)

    with database.transaction() as session:
        session.execute(
            text("INSERT INTO archives (bucket, key, cases, size, sha256) VALUES ('b', 'k', 1, 1, '')")
        )
        session.execute(text("UPDATE cases SET archive_id = (SELECT id FROM archives)"))

    with database.transaction() as session:
        assert renditions_of(session, case_id) is None
        record_renditions(session, case_id, SMALL)
        assert renditions_of(session, case_id) is None


@pytest.mark.parametrize(
    ("days", "state", "left"),
    [
        pytest.param(91, "decided", False, id="decided long ago"),
        pytest.param(89, "decided", True, id="decided lately"),
        pytest.param(91, "ready", True, id="waiting for a person"),
    ],
)
def test_those_of_decided_cases_are_forgotten_in_time(
    database: Database, database_url: str, days: int, state: str, *, left: bool
) -> None:
    case_id = ready(database)
    keep(database, case_id)
    with database.transaction() as session:
        session.execute(text("UPDATE renditions SET created_at = now() - interval '200 days'"))
        session.execute(
            text("UPDATE cases SET state = :state, decided_at = now() - make_interval(days => :days)"),
            {"state": state, "days": days},
        )
    sweeper = Database(as_role(database_url, "bonafide_sweeper"), pool_size=1)

    with sweeper.transaction() as session:
        assert forget_renditions(session, days=90) == int(not left)

    sweeper.close()
    with database.transaction() as session:
        assert (find_thumbnail(session, case_id) is not None) is left


def test_those_of_other_bytes_are_not_shown_beside_an_analysis(database: Database) -> None:
    case_id = ready(database)

    with database.transaction() as session:
        record_renditions(session, case_id, SMALL, sha256="00" * 32)

        assert renditions_of(session, case_id) is None


def test_the_last_to_come_stay(database: Database) -> None:
    case_id = accepted(database)
    keep(database, case_id)

    with database.transaction() as session:
        record_renditions(session, case_id, Renditions(b"other", b"shown"))

        assert renditions_of(session, case_id) == Renditions(b"other", b"shown")


def keep(database: Database, case_id: UUID) -> None:
    with database.transaction() as session:
        digest = session.scalar(
            text("SELECT encode(image_sha256, 'hex') FROM analyses WHERE case_id = :case"), {"case": case_id}
        )
        record_renditions(session, case_id, SMALL, sha256=digest)
