"""Questions from the asking to the answer: real Postgres, broker and store, a scripted model."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import redis
from sqlalchemy import text

from moderation.analysis import Abstain, Analysis, Box, Face, FaceAnalysis, Label, Verdict, undetermined
from moderation.cases import ImageRef, Refusal
from moderation.database.analyses import insert_analysis
from moderation.database.connection import Database
from moderation.database.health import SILENT_AFTER
from moderation.database.moves import expire_leases, refuse_case
from moderation.database.operations import beat
from moderation.database.questions import begin_question, release_question
from moderation.dfa.gpt.conversation import LONGEST_QUESTION as MODEL_TAKES
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.dispatch import QUESTION_QUEUE, Publisher, WorkKind
from moderation.errors import (
    CaseNotFound,
    FaceNotJudged,
    QuestionRefused,
    TooManyQuestions,
    TransitionRefused,
)
from moderation.local import as_role
from moderation.questions import (
    ALL_AT_MOST,
    FAILURES,
    LONGEST_QUESTION,
    OPEN_AT_MOST,
    Questions,
)
from moderation.settings import Settings
from moderation.storage import Storage
from tests.builders import a_face, a_face_analysis, an_analysis, new_id
from tests.fakes import ScriptedDetector, a_crop, one_face
from tests.integration.conftest import accepted, begun, enrolled, let_time_pass, ready, refused, stored
from worker.answers import ANSWER
from worker.lifecycle import close_station, open_station
from worker.run import run
from worker.station import Station
from worker.sweeper import publish_due

_STORE_AWAY = Refusal("storage_unavailable", "This could not be analysed for long: storage does not answer.")


@pytest.fixture
def publisher(broker_url: str) -> Publisher:
    return Publisher(broker_url, at_most=100)


@pytest.fixture
def questions(database: Database, publisher: Publisher) -> Questions:
    return Questions(database, publisher)


@pytest.fixture
def portrait(samples: Path) -> bytes:
    return (samples / "portrait-1.jpg").read_bytes()


@pytest.fixture
def image(storage: Storage, portrait: bytes) -> ImageRef:
    return storage.put_image("questions/portrait.jpg", portrait, "image/jpeg")


@pytest.fixture
def analysis(portrait: bytes) -> Analysis:
    """Of `image`."""
    return an_analysis(picture=one_face(portrait).facts)


@pytest.fixture
def detector() -> ScriptedDetector:
    return ScriptedDetector()


@pytest.fixture
def station(settings: Settings, detector: ScriptedDetector) -> Iterator[Station]:
    opened = open_station(settings, detector)
    yield opened
    close_station(opened, why="the test ended")


def _lose_messages(settings: Settings) -> None:
    with redis.Redis.from_url(settings.broker_url.get_secret_value()) as client:
        client.delete(QUESTION_QUEUE)


def _publish_due(database: Database, publisher: Publisher, settings: Settings) -> int:
    """One look of the sweeper."""
    return publish_due(database, publisher, WorkKind.QUESTION, settings).published


def _later(database: Database, seconds: float) -> None:
    with database.transaction() as session:
        session.execute(
            text("UPDATE questions SET rung_at = rung_at - :d, begun_at = begun_at - :d").bindparams(
                d=timedelta(seconds=seconds)
            )
        )


def test_a_question_is_published_and_answered_with_what_answered_it(
    questions: Questions,
    publisher: Publisher,
    database: Database,
    station: Station,
    image: ImageRef,
    analysis: Analysis,
) -> None:
    case_id = ready(database, image=image, analysis=analysis)
    ada = enrolled(database)

    asked = questions.ask(case_id, "  What is wrong\n here? ", actor=ada.actor, person=ada)
    assert publisher.depth(QUESTION_QUEUE) == 1
    run(station, ANSWER, asked.id)

    (found,) = questions.of_case(case_id)
    assert (found.question, found.answer) == (
        "What is wrong here?",
        "After 0 answers I say: What is wrong here?",
    )
    assert (found.bundle, found.fingerprint, found.failure) == ("scripted 1", "scripted", None)
    assert found.asked_by == ada.actor
    assert found.seconds is not None
    assert found.answered_at is not None


def test_the_model_hears_what_was_said_before(
    questions: Questions,
    database: Database,
    station: Station,
    detector: ScriptedDetector,
    image: ImageRef,
    analysis: Analysis,
) -> None:
    case_id = ready(database, image=image, analysis=analysis)
    for words in ("First?", "Second?"):
        run(station, ANSWER, questions.ask(case_id, words, actor="platform:test").id)

    _, turns, question = detector.asked[-1]
    assert [(turn.question, turn.answer) for turn in turns] == [("First?", "After 0 answers I say: First?")]
    assert question == "Second?"


#: Where the model finds two faces, and where they were found when they were analysed.
LEFT, RIGHT = Box(0, 0, 100, 100), Box(300, 0, 400, 100)
LEFT_THEN, RIGHT_THEN = Box(5, 5, 95, 105), Box(310, 5, 405, 95)


def _two_faces(data: bytes) -> Prepared:
    crops = tuple(FaceCrop(Face(box, 1.0), a_crop().pixels) for box in (LEFT, RIGHT))
    return Prepared(one_face(data).facts, crops)


def _of_two(analysis: Analysis, **fields: object) -> Analysis:
    """The right face decides, and is face 1; the left one is bona fide."""
    right = a_face_analysis(face=a_face(box=RIGHT_THEN))
    left = FaceAnalysis(
        a_face(box=LEFT_THEN), Verdict(Label.BONA_FIDE, score=0.2), reply="There are no artifacts."
    )
    return dataclasses.replace(analysis, **({"faces": (right, left)} | fields))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def two_faced() -> ScriptedDetector:
    return ScriptedDetector(prepare=_two_faces)


@pytest.fixture
def station_of_two(settings: Settings, two_faced: ScriptedDetector) -> Iterator[Station]:
    opened = open_station(settings, two_faced)
    yield opened
    close_station(opened, why="the test ended")


def test_the_face_that_decided_the_verdict_is_asked_about(
    questions: Questions,
    database: Database,
    station_of_two: Station,
    two_faced: ScriptedDetector,
    image: ImageRef,
    analysis: Analysis,
) -> None:
    case_id = ready(database, image=image, analysis=_of_two(analysis))

    run(station_of_two, ANSWER, questions.ask(case_id, "Why?", actor="platform:test").id)

    assert two_faced.asked[-1][0].face.box == RIGHT
    assert questions.of_case(case_id)[0].face == 1


def test_a_question_that_names_a_face_is_asked_about_it_with_what_was_said_of_it(
    questions: Questions,
    database: Database,
    station_of_two: Station,
    two_faced: ScriptedDetector,
    image: ImageRef,
    analysis: Analysis,
) -> None:
    case_id = ready(database, image=image, analysis=_of_two(analysis))
    asked = [
        questions.ask(case_id, question, actor="platform:test", face=face).id
        for question, face in (("First?", 1), ("Other?", 2), ("And then?", 1))
    ]
    for each in asked:
        run(station_of_two, ANSWER, each)

    assert [crop.face.box for crop, _, _ in two_faced.asked] == [RIGHT, LEFT, RIGHT]
    assert [[turn.question for turn in turns] for _, turns, _ in two_faced.asked] == [[], [], ["First?"]]
    assert [about and about.verdict.label for about in two_faced.reminded] == [
        "deepfake",
        "bona_fide",
        "deepfake",
    ]
    assert [one.face for one in questions.of_case(case_id)] == [1, 2, 1]


def test_an_answer_is_held_against_what_was_said_of_the_face_that_it_is_about(
    questions: Questions,
    database: Database,
    station_of_two: Station,
    two_faced: ScriptedDetector,
    image: ImageRef,
    analysis: Analysis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case_id = ready(database, image=image, analysis=_of_two(analysis))
    monkeypatch.setattr(two_faced, "converse", lambda *_, **__: iter(["I take this face for bona fide."]))

    for face in (1, 2):
        run(
            station_of_two, ANSWER, questions.ask(case_id, "What is it?", actor="platform:test", face=face).id
        )

    assert [one.failure for one in questions.of_case(case_id)] == ["unreadable", None]


def test_the_face_stays_the_same_when_the_case_is_analysed_anew_before_the_answer(
    questions: Questions,
    database: Database,
    station_of_two: Station,
    two_faced: ScriptedDetector,
    image: ImageRef,
    analysis: Analysis,
) -> None:
    case_id = ready(database, image=image, analysis=_of_two(analysis))
    asked = questions.ask(case_id, "Why?", actor="platform:test", face=2)
    first, second = _of_two(analysis).faces
    turned_round = _of_two(analysis, fingerprint="f2", faces=(second, first))
    with database.transaction() as session:
        stored_anew = insert_analysis(session, case_id, turned_round, new_id=new_id())
        session.execute(
            text("UPDATE cases SET analysis_id = :new WHERE id = :id").bindparams(
                new=stored_anew.id, id=case_id
            )
        )

    run(station_of_two, ANSWER, asked.id)

    assert two_faced.asked[-1][0].face.box == LEFT


@pytest.mark.parametrize("face", [3, 4], ids=["found and not judged", "never found"])
def test_a_face_that_was_not_judged_cannot_be_asked_about(
    questions: Questions, database: Database, image: ImageRef, analysis: Analysis, face: int
) -> None:
    small = FaceAnalysis(a_face(box=Box(0, 0, 9, 9)), undetermined(Abstain.FACE_TOO_SMALL), background=True)
    two = _of_two(analysis)
    case_id = ready(database, image=image, analysis=dataclasses.replace(two, faces=(*two.faces, small)))

    with pytest.raises(FaceNotJudged, match="faces that were: 1, 2"):
        questions.ask(case_id, "Why?", actor="platform:test", face=face)

    assert questions.of_case(case_id) == []


def test_of_a_picture_that_was_refused_no_face_can_be_named(
    questions: Questions, database: Database, image: ImageRef
) -> None:
    case_id = refused(database, image=image)

    with pytest.raises(FaceNotJudged):
        questions.ask(case_id, "Why?", actor="platform:test", face=1)

    assert questions.ask(case_id, "Why?", actor="platform:test").face is None


def test_a_second_message_asks_the_model_once(
    questions: Questions,
    database: Database,
    station: Station,
    detector: ScriptedDetector,
    image: ImageRef,
    analysis: Analysis,
) -> None:
    asked = questions.ask(ready(database, image=image, analysis=analysis), "Why?", actor="platform:test")

    run(station, ANSWER, asked.id)
    run(station, ANSWER, asked.id)
    run(station, ANSWER, new_id())

    assert len(detector.asked) == 1


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        pytest.param(lambda data: Prepared(one_face(data).facts, ()), "no_face", id="no face"),
        pytest.param(lambda data: {}["a bug"], "fault", id="a bug of ours"),
    ],
)
def test_a_question_that_cannot_be_answered_says_why(
    questions: Questions, database: Database, settings: Settings, image: ImageRef, prepare: object, code: str
) -> None:
    station = open_station(settings, ScriptedDetector(prepare=prepare))  # pyright: ignore[reportArgumentType]
    case_id = refused(database, image=image)

    run(station, ANSWER, questions.ask(case_id, "Why?", actor="platform:test").id)

    close_station(station, why="the test ended")
    (found,) = questions.of_case(case_id)
    assert (found.answer, found.failure) == (None, code)
    assert code in FAILURES


def test_an_image_that_is_gone_says_so(questions: Questions, database: Database, station: Station) -> None:
    case_id = ready(database, image=ImageRef("flagged", "never-there.jpg"))

    run(station, ANSWER, questions.ask(case_id, "Why?", actor="platform:test").id)

    assert questions.of_case(case_id)[0].failure == "image_missing"


def test_what_was_unavailable_is_tried_again_and_in_the_end_given_up(
    questions: Questions,
    database: Database,
    publisher: Publisher,
    settings: Settings,
    station: Station,
    image: ImageRef,
    analysis: Analysis,
) -> None:
    case_id = ready(database, image=image, analysis=analysis)
    asked = questions.ask(case_id, "Why?", actor="platform:test")
    station.serving.batcher.stop(timeout=5)

    published = 1
    for _ in range(3):
        assert published == 1
        _lose_messages(settings)
        run(station, ANSWER, asked.id)
        _later(database, settings.publish_again_seconds + 1)
        assert questions.of_case(case_id)[0].failure is None
        published = _publish_due(database, publisher, settings)

    assert published == 0
    assert questions.of_case(case_id)[0].failure == "no_answer"


def test_a_question_whose_message_was_lost_is_published_again(
    questions: Questions, database: Database, publisher: Publisher, settings: Settings
) -> None:
    case_id = ready(database)
    questions.ask(case_id, "Why?", actor="platform:test")
    assert _publish_due(database, publisher, settings) == 0

    _later(database, settings.publish_again_seconds + 1)
    assert _publish_due(database, publisher, settings) == 0
    _lose_messages(settings)
    _later(database, settings.publish_again_seconds + 1)

    assert _publish_due(database, publisher, settings) == 1
    assert publisher.depth(QUESTION_QUEUE) == 1
    assert _publish_due(database, publisher, settings) == 0


def test_the_sweeper_may_publish_and_give_up_with_its_own_role(
    questions: Questions, database: Database, database_url: str, publisher: Publisher, settings: Settings
) -> None:
    case_id = ready(database)
    given_up, waiting = (questions.ask(case_id, f"{n}?", actor="platform:test") for n in range(2))
    with database.transaction() as session:
        session.execute(text("UPDATE questions SET attempts = 3 WHERE id = :id"), {"id": given_up.id})
    _lose_messages(settings)
    _later(database, settings.publish_again_seconds + 1)
    sweeper = Database(as_role(database_url, "bonafide_sweeper"), pool_size=1)

    assert _publish_due(sweeper, publisher, settings) == 1

    sweeper.close()
    failures = {one.id: one.failure for one in questions.of_case(case_id)}
    assert failures == {given_up.id: "no_answer", waiting.id: None}


def test_a_question_asked_while_the_broker_is_away_is_published_when_it_is_back(
    database: Database, publisher: Publisher, settings: Settings
) -> None:
    nowhere = Publisher("redis://127.0.0.1:9/0", at_most=100)

    asked = Questions(database, nowhere).ask(ready(database), "Why?", actor="platform:test")

    assert asked.answered_at is None
    assert _publish_due(database, publisher, settings) == 1


@pytest.mark.parametrize(
    "question",
    [
        pytest.param(" \n ", id="empty"),
        pytest.param("x" * (LONGEST_QUESTION + 1), id="too long"),
        pytest.param("\x00\x07", id="controls alone"),
    ],
)
def test_what_is_no_question_is_not_asked(questions: Questions, database: Database, question: str) -> None:
    case_id = ready(database)

    with pytest.raises(QuestionRefused):
        questions.ask(case_id, question, actor="platform:test")


def test_questions_are_bounded(questions: Questions, database: Database) -> None:
    case_id = ready(database)
    for number in range(OPEN_AT_MOST):
        questions.ask(case_id, f"Question {number}?", actor="platform:test")

    with pytest.raises(TooManyQuestions, match="wait"):
        questions.ask(case_id, "One more?", actor="platform:test")
    _answer_all(database, case_id, copies=ALL_AT_MOST)
    with pytest.raises(TooManyQuestions, match="had its"):
        questions.ask(case_id, "One more?", actor="platform:test")


def _answer_all(database: Database, case_id: UUID, *, copies: int) -> None:
    with database.transaction() as session:
        session.execute(text("UPDATE questions SET answered_at = now(), answer = 'so'"))
        session.execute(
            text("""
                INSERT INTO questions (id, case_id, asked_by, question, answer, answered_at)
                SELECT gen_random_uuid(), :case_id, 'platform:test', 'q', 'a', now()
                FROM generate_series(1, :copies)
            """),
            {"case_id": case_id, "copies": copies},
        )


def test_only_a_case_that_is_before_a_reviewer_takes_questions(
    questions: Questions, database: Database
) -> None:
    with pytest.raises(TransitionRefused):
        questions.ask(accepted(database), "Why?", actor="platform:test")
    with pytest.raises(CaseNotFound):
        questions.ask(new_id(), "Why?", actor="platform:test")
    with pytest.raises(CaseNotFound):
        questions.of_case(new_id())


def test_a_picture_that_was_tried_too_often_is_not_shown_to_the_model_again(
    questions: Questions, database: Database
) -> None:
    case_id = accepted(database)
    for _ in range(2):
        assert begun(database, case_id, quarantined=True)
        let_time_pass(database, 3600)
        with database.transaction() as session:
            expire_leases(session, actor="sweeper:1", attempts_at_most=2)
        let_time_pass(database, 3600)
    refusal = stored(database, case_id).refusal
    assert refusal is not None
    assert refusal.code == "attempts_exhausted"

    with pytest.raises(TransitionRefused, match="may have ended a worker"):
        questions.ask(case_id, "Why?", actor="platform:test")


def test_a_picture_that_storage_did_not_give_for_long_may_be_asked_about(
    questions: Questions, database: Database
) -> None:
    case_id = refused(database, refusal=_STORE_AWAY)

    assert questions.ask(case_id, "Why?", actor="platform:test").answer is None


def test_a_picture_that_may_have_ended_a_worker_before_storage_was_away_may_not(
    questions: Questions, database: Database
) -> None:
    case_id = accepted(database)
    assert begun(database, case_id)
    let_time_pass(database, 3600)
    with database.transaction() as session:
        expire_leases(session, actor="sweeper:1", attempts_at_most=2)
    let_time_pass(database, 3600)
    lease = begun(database, case_id, quarantined=True)
    assert lease is not None
    with database.transaction() as session:
        refuse_case(session, case_id, lease.lease_token, _STORE_AWAY, actor="worker:w1")

    with pytest.raises(TransitionRefused, match="may have ended a worker"):
        questions.ask(case_id, "Why?", actor="platform:test")


def test_a_question_that_was_released_keeps_nobody_from_working(
    questions: Questions,
    database: Database,
    station: Station,
    detector: ScriptedDetector,
    image: ImageRef,
    analysis: Analysis,
) -> None:
    asked = questions.ask(ready(database, image=image, analysis=analysis), "Why?", actor="platform:test")
    with database.transaction() as session:
        taken = begin_question(session, asked.id, stale_after=60, quarantined=False)
        assert taken is not None
        release_question(session, taken)

    with station.quarantine.shared(), ThreadPoolExecutor(1) as threads:
        threads.submit(run, station, ANSWER, asked.id).result(timeout=30)

    assert len(detector.asked) == 1


def test_a_question_whose_worker_ended_is_tried_while_nothing_else_is(
    questions: Questions,
    database: Database,
    settings: Settings,
    station: Station,
    detector: ScriptedDetector,
    image: ImageRef,
    analysis: Analysis,
) -> None:
    asked = questions.ask(ready(database, image=image, analysis=analysis), "Why?", actor="platform:test")
    with database.transaction() as session:
        assert begin_question(session, asked.id, stale_after=60, quarantined=False)
    _later(database, 3600)

    with ThreadPoolExecutor(1) as threads:
        with station.quarantine.shared():
            answering = threads.submit(run, station, ANSWER, asked.id)
            while not station.quarantine._exclusive_waiting:  # pyright: ignore[reportPrivateUsage]
                assert not answering.done()
        answering.result(timeout=30)

    assert len(detector.asked) == 1


def test_whether_a_worker_could_answer_is_said(questions: Questions, database: Database) -> None:
    assert not questions.worker_is_there()

    with database.transaction() as session:
        beat(session, "worker:here:1", {"fingerprint": "scripted"})

    assert questions.worker_is_there()


@pytest.mark.parametrize(("later", "there"), [(SILENT_AFTER - 5, True), (SILENT_AFTER + 1, False)])
def test_a_worker_is_gone_here_when_it_is_gone_everywhere(
    questions: Questions, database: Database, *, later: float, there: bool
) -> None:
    with database.transaction() as session:
        beat(session, "worker:here:1", {"fingerprint": "scripted"})
        session.execute(
            text("UPDATE heartbeats SET seen_at = seen_at - :d").bindparams(d=timedelta(seconds=later))
        )

    assert questions.worker_is_there() is there


def test_what_is_taken_the_model_takes() -> None:
    assert LONGEST_QUESTION == MODEL_TAKES


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param("The", id="a fragment"),
        pytest.param("<region>Eyes</region>", id="markup"),
        pytest.param("No, this face is bona fide.", id="not its own verdict"),
        pytest.param("I see no artifact in this face.", id="not its own artifacts"),
    ],
)
def test_a_reply_that_cannot_be_read_or_contradicts_the_verdict_is_no_answer(
    questions: Questions,
    database: Database,
    station: Station,
    detector: ScriptedDetector,
    image: ImageRef,
    analysis: Analysis,
    monkeypatch: pytest.MonkeyPatch,
    reply: str,
) -> None:
    case_id = ready(database, image=image, analysis=analysis)
    monkeypatch.setattr(detector, "converse", lambda *_, **__: iter([reply]))

    run(station, ANSWER, questions.ask(case_id, "Is this face forged?", actor="platform:test").id)

    (found,) = questions.of_case(case_id)
    assert (found.answer, found.failure) == (None, "unreadable")
    assert "no answer" in FAILURES["unreadable"]
