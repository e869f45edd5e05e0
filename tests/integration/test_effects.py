"""What scores depend on, measured with every analysis or when a case is opened: real stores, a scripted model."""

import dataclasses
from collections.abc import Callable, Iterator
from uuid import UUID

import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from moderation.analysis import Analysis, Box, Effect, Face, FaceAnalysis, Point, Region
from moderation.cases import ImageRef
from moderation.database.analyses import shown_analyses
from moderation.database.connection import Database
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.dispatch import QUESTION_QUEUE, Publisher, WorkKind
from moderation.local import as_role
from moderation.settings import Settings
from moderation.storage import Storage
from tests.builders import a_verdict, an_artifact
from tests.dfa.conftest import a_picture
from tests.fakes import ScriptedDetector, one_face
from tests.integration.conftest import accepted
from worker.analysis import ANALYZE
from worker.lifecycle import close_station, open_station
from worker.measuring import measure
from worker.run import run
from worker.station import Station

PIXELS = a_picture(224)
FACE = Face(
    Box(0, 0, 172, 172), 0.9, (Point(60, 70), Point(112, 70), Point(86, 100), Point(66, 126), Point(106, 126))
)
#: Rows and columns of the crop.
MOUTH = (slice(150, 155), slice(110, 115))
RATIONALE = (an_artifact(heading="Light", regions=(Region.LIGHTING,), polygon=None), an_artifact())


def a_script(crop: FaceCrop) -> FaceAnalysis:
    """A deepfake by its mouth: without that the score falls, and by nothing else."""
    there = np.array_equal(crop.pixels[MOUTH], PIXELS[MOUTH])
    verdict = a_verdict(margin=2.0 if there else -1.0)
    return FaceAnalysis(crop.face, verdict, () if crop.verdict_only else RATIONALE)


def prepare(data: bytes) -> Prepared:
    return dataclasses.replace(one_face(data), crops=(FaceCrop(FACE, PIXELS),))


@pytest.fixture
def detector() -> ScriptedDetector:
    return ScriptedDetector(a_script, prepare=prepare)


Open = Callable[[str], Station]


@pytest.fixture
def open_with(settings: Settings, database_url: str, detector: ScriptedDetector) -> Iterator[Open]:
    """A worker with its own role in Postgres, by when it measures."""
    role = SecretStr(as_role(database_url, "bonafide_worker"))
    opened: list[Station] = []

    def make(effect: str) -> Station:
        chosen = settings.model_copy(update={"database_url": role, "effect": effect})
        opened.append(open_station(chosen, detector))
        return opened[-1]

    yield make
    for station in opened:
        close_station(station, why="the test ended")


@pytest.fixture
def image(storage: Storage) -> ImageRef:
    return storage.put_image("effects/portrait.jpg", b"a portrait", "image/jpeg")


def _analyzed(station: Station, database: Database, image: ImageRef) -> UUID:
    case_id = accepted(database, image=image)
    run(station, ANALYZE, case_id)
    return case_id


def _shown(database: Database, case_id: UUID) -> Analysis:
    with database.transaction() as session:
        return shown_analyses(session, [case_id])[case_id].analysis


def _effects(database: Database, case_id: UUID) -> list[Effect | None]:
    return [artifact.effect for artifact in _shown(database, case_id).faces[0].rationale]


def test_with_every_analysis_each_place_is_hidden_beside_a_control(
    open_with: Open, database: Database, image: ImageRef, detector: ScriptedDetector
) -> None:
    case_id = _analyzed(open_with("always"), database, image)

    nowhere, mouth = _effects(database, case_id)
    assert nowhere is None
    assert mouth is not None
    assert (mouth.margin_fall, mouth.control_fall) == (3.0, 0.0)
    assert mouth.score_without == pytest.approx(detector.score(-1.0))
    assert mouth.supported
    assert sum(detector.groups) == 1 + 6
    assert _shown(database, case_id).seconds["effect"] > 0


def test_what_was_measured_is_said_again_of_the_same_bytes(
    open_with: Open, database: Database, image: ImageRef, detector: ScriptedDetector
) -> None:
    station = open_with("always")
    first = _analyzed(station, database, image)
    asked = sum(detector.groups)

    second = _analyzed(station, database, image)

    assert _effects(database, second) == _effects(database, first)
    assert sum(detector.groups) == asked


def test_when_a_case_is_opened_it_is_measured_once(
    open_with: Open, database: Database, image: ImageRef, detector: ScriptedDetector
) -> None:
    station = open_with("on_open")
    case_id = _analyzed(station, database, image)
    assert _effects(database, case_id) == [None, None]

    measure(station, case_id)
    asked = sum(detector.groups)
    measure(station, case_id)

    nowhere, mouth = _effects(database, case_id)
    assert nowhere is None
    assert mouth is not None
    assert mouth.supported
    assert sum(detector.groups) == asked == 1 + 6


@pytest.mark.parametrize(
    "why",
    [
        pytest.param("UPDATE cases SET erased_at = now()", id="erased"),
        pytest.param("UPDATE cases SET analysis_id = NULL", id="without an analysis"),
    ],
)
def test_what_is_not_there_any_more_is_not_measured(
    open_with: Open, database: Database, image: ImageRef, detector: ScriptedDetector, why: str
) -> None:
    station = open_with("on_open")
    case_id = _analyzed(station, database, image)
    with database.transaction() as session:
        session.execute(text(why))

    measure(station, case_id)

    assert sum(detector.groups) == 1


def test_only_the_bundle_that_gave_the_score_is_asked(
    open_with: Open, database: Database, image: ImageRef, detector: ScriptedDetector
) -> None:
    station = open_with("on_open")
    case_id = _analyzed(station, database, image)
    others = dataclasses.replace(station, pipelines={})

    measure(others, case_id)

    assert sum(detector.groups) == 1


def test_nothing_is_measured_where_nobody_wants_it(
    open_with: Open, database: Database, image: ImageRef, detector: ScriptedDetector
) -> None:
    station = open_with("never")
    case_id = _analyzed(station, database, image)

    measure(station, case_id)

    assert _effects(database, case_id) == [None, None]
    assert sum(detector.groups) == 1


def test_a_case_is_published_where_people_wait(broker_url: str, database: Database) -> None:
    publisher = Publisher(broker_url, at_most=100)

    assert publisher.publish(WorkKind.MEASUREMENT, [accepted(database)])

    assert publisher.depth(QUESTION_QUEUE) == 1
