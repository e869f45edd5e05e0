"""Which bytes a case is about when its flag named no version: those that were analysed, whatever the key holds by then.

Moto keeps versions; the embedded store does not.
"""

import hashlib
from collections.abc import Iterator
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from moderation.analysis import PictureFacts
from moderation.cases import CaseState, ImageRef
from moderation.database.cases import Opening
from moderation.database.connection import Database
from moderation.database.moves import retry_case
from moderation.dfa.gpt.crops import Prepared
from moderation.dispatch import Publisher
from moderation.errors import ImageCorrupt
from moderation.intake import Intake
from moderation.local import Addresses, as_role
from moderation.questions import FAILURES, Questions
from moderation.rollouts.rerun_rows import HeldRerun, begin_rerun, insert_reruns, record_rerun
from moderation.settings import Settings
from moderation.storage import Storage
from tests.builders import a_flag, an_analysis, new_id
from tests.conftest import make_settings
from tests.fakes import ScriptedDetector, one_face
from tests.integration.conftest import accepted, begun, ready, refused, stored
from worker.analysis import ANALYZE
from worker.answers import ANSWER
from worker.lifecycle import close_station, open_station
from worker.reruns import RERUN
from worker.run import run
from worker.station import Station

BUCKET, KEY = "versions", "avatars/ada.jpg"
FLAGGED, INNOCENT = b"what was flagged", b"an innocent picture"


@pytest.fixture
def settings(
    database_url: str, broker_url: str, servers: Addresses, versioned_store: dict[str, str]
) -> Settings:
    return make_settings(database_url, broker_url, servers, **versioned_store)


class Looking(ScriptedDetector):
    """Remembers what it was shown, and calls what is in `broken` corrupt."""

    def __init__(self) -> None:
        super().__init__(prepare=self._look)
        self.seen: list[bytes] = []
        self.broken: set[bytes] = set()

    def _look(self, data: bytes) -> Prepared:
        self.seen.append(data)
        if data in self.broken:
            raise ImageCorrupt("the file ends in the middle")
        return one_face(data)


@pytest.fixture
def detector() -> Looking:
    return Looking()


@pytest.fixture
def station(settings: Settings, database_url: str, detector: Looking) -> Iterator[Station]:
    """A worker with its own role in Postgres."""
    role = SecretStr(as_role(database_url, "bonafide_worker"))
    opened = open_station(settings.model_copy(update={"database_url": role}), detector)
    yield opened
    close_station(opened, why="the test ended")


@pytest.fixture
def questions(database: Database, broker_url: str) -> Questions:
    return Questions(database, Publisher(broker_url, at_most=100))


def _work_on(station: Station, case_id: UUID) -> None:
    run(station, ANALYZE, case_id)


def _flagged(storage: Storage, database: Database, **fields: object) -> tuple[UUID, ImageRef]:
    """A case whose flag named no version, and the version that its key holds."""
    put = storage.put_image(KEY, FLAGGED, "image/jpeg")
    assert put.version_id is not None
    return accepted(database, image=ImageRef(BUCKET, KEY), **fields), put


def _asked_anew(database: Database, case_id: UUID, *, shadow: bool = False) -> UUID:
    with database.transaction() as session:
        insert_reruns(session, "scripted", [case_id], shadow=shadow, asked_by="operator")
        return session.scalars(text("SELECT id FROM reruns")).one()


def _taken(database: Database, case_id: UUID, *, shadow: bool = False) -> HeldRerun:
    rerun_id = _asked_anew(database, case_id, shadow=shadow)
    with database.transaction() as session:
        taken = begin_rerun(
            session, rerun_id, ["scripted"], actor="worker:w1", stale_after=60, quarantined=True
        )
    assert taken is not None
    return taken


def _recorded(database: Database, taken: HeldRerun, *, version_id: str) -> None:
    """What a worker made of this version."""
    with database.transaction() as session:
        analysis = an_analysis(fingerprint="scripted")
        record_rerun(session, taken, analysis, actor="worker:w1", new_id=new_id(), version_id=version_id)


def test_what_was_analysed_is_what_a_reviewer_and_a_question_see(
    station: Station, detector: Looking, storage: Storage, database: Database, questions: Questions
) -> None:
    case_id, put = _flagged(storage, database)
    _work_on(station, case_id)

    storage.put_image(KEY, INNOCENT, "image/jpeg")

    assert stored(database, case_id).flag.image == put
    assert httpx.get(storage.sign_view(stored(database, case_id).flag.image)).content == FLAGGED
    run(station, ANSWER, questions.ask(case_id, "Why?", actor="platform:test").id)
    assert questions.of_case(case_id)[0].failure is None
    assert set(detector.seen) == {FLAGGED}


def test_what_was_refused_is_what_a_reviewer_sees(
    station: Station, detector: Looking, storage: Storage, database: Database
) -> None:
    detector.broken = {FLAGGED}
    case_id, put = _flagged(storage, database)

    _work_on(station, case_id)

    case = stored(database, case_id)
    assert (case.state, case.refusal and case.refusal.code) == (CaseState.READY, "image_corrupt")
    assert case.flag.image == put


def test_what_was_read_is_what_a_rerun_sees(
    station: Station, detector: Looking, storage: Storage, database: Database
) -> None:
    detector.broken = {FLAGGED}
    case_id, _ = _flagged(storage, database)
    _work_on(station, case_id)
    detector.broken = set()
    storage.put_image(KEY, INNOCENT, "image/jpeg")

    run(station, RERUN, _asked_anew(database, case_id))

    assert stored(database, case_id).refusal is None
    assert set(detector.seen) == {FLAGGED}


def test_a_version_that_was_named_stays(station: Station, storage: Storage, database: Database) -> None:
    first = storage.put_image(KEY, FLAGGED, "image/jpeg")
    storage.put_image(KEY, INNOCENT, "image/jpeg")
    case_id = accepted(database, image=first)

    _work_on(station, case_id)

    assert stored(database, case_id).flag.image == first


def test_an_analysis_anew_of_what_had_none_pins_the_case_to_what_it_is_of(
    station: Station, storage: Storage, database: Database
) -> None:
    case_id = refused(database, image=ImageRef(BUCKET, KEY))
    put = storage.put_image(KEY, FLAGGED, "image/jpeg")

    run(station, RERUN, _asked_anew(database, case_id))

    assert stored(database, case_id).flag.image == put


@pytest.mark.parametrize("again", ["rerun", "retry"])
def test_what_the_shadow_made_is_shown_beside_the_picture_that_it_read(
    station: Station, detector: Looking, storage: Storage, database: Database, again: str
) -> None:
    case_id = refused(database, image=ImageRef(BUCKET, KEY))
    put = storage.put_image(KEY, FLAGGED, "image/jpeg")
    run(station, RERUN, _asked_anew(database, case_id, shadow=True))
    storage.put_image(KEY, INNOCENT, "image/jpeg")

    if again == "rerun":
        run(station, RERUN, _asked_anew(database, case_id))
    else:
        with database.transaction() as session:
            assert retry_case(session, case_id, actor="operator")
        _work_on(station, case_id)

    case = stored(database, case_id)
    assert (case.state, case.refusal, case.flag.image) == (CaseState.READY, None, put)
    assert set(detector.seen) == {FLAGGED}


def test_an_analysis_of_another_version_than_the_case_names_by_now_is_thrown_away(database: Database) -> None:
    case_id = refused(database, image=ImageRef(BUCKET, KEY))
    taken = _taken(database, case_id)
    with database.transaction() as session:
        session.execute(text("UPDATE cases SET version_id = 'first'"))

    _recorded(database, taken, version_id="second")

    assert stored(database, case_id).refusal is not None
    with database.transaction() as session:
        assert session.scalars(text("SELECT failure FROM reruns")).one() == "image_changed"
        assert session.scalars(text("SELECT id FROM analyses")).all() == []


def test_a_shadow_pins_no_case_whose_own_analysis_is_under_way(database: Database) -> None:
    case_id = refused(database, image=ImageRef(BUCKET, KEY))
    taken = _taken(database, case_id, shadow=True)
    with database.transaction() as session:
        retry_case(session, case_id, actor="operator")
    assert begun(database, case_id) is not None  # its worker may have read the second by now

    _recorded(database, taken, version_id="first")

    assert stored(database, case_id).flag.image.version_id is None


def test_a_flag_that_is_repeated_after_its_case_was_pinned_is_the_same_flag(
    station: Station, storage: Storage, database: Database, broker_url: str
) -> None:
    case_id, _ = _flagged(storage, database, external_id="a-7")
    flag = a_flag(image=ImageRef(BUCKET, KEY), external_id="a-7")
    _work_on(station, case_id)
    intake = Intake(database, storage, Publisher(broker_url, at_most=100))

    again = intake.receive(Opening(flag), actor="platform:test")

    assert (again.id, again.created) == (case_id, False)


def test_a_question_about_a_picture_that_was_replaced_says_so(
    station: Station, detector: Looking, storage: Storage, database: Database, questions: Questions
) -> None:
    storage.put_image(KEY, INNOCENT, "image/jpeg")
    digest = hashlib.sha256(FLAGGED).hexdigest()
    analysis = an_analysis(picture=PictureFacts(digest, len(FLAGGED), "JPEG", 100, 100))
    case_id = ready(database, image=ImageRef(BUCKET, KEY), analysis=analysis)

    run(station, ANSWER, questions.ask(case_id, "Why?", actor="platform:test").id)

    assert questions.of_case(case_id)[0].failure == "image_changed"
    assert "image_changed" in FAILURES
    assert detector.seen == []
