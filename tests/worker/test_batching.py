import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pytest

from moderation.analysis import FaceAnalysis
from moderation.dfa.gpt.conversation import Turn
from moderation.dfa.gpt.crops import FaceCrop
from moderation.errors import BonafideError, EngineUnavailable
from tests.builders import a_verdict
from tests.fakes import ScriptedDetector, a_crop
from worker.batching import Batcher

K = TypeVar("K")


def _batcher(detector: ScriptedDetector, capacity: int = 64) -> Batcher:
    batcher = Batcher(detector, capacity=capacity, wait_seconds=0.05)
    batcher.start()
    return batcher


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Holds the engine until a test lets it go."""
    event = threading.Event()
    yield event
    event.set()


def _gated(gate: threading.Event, *, slots: int) -> ScriptedDetector:
    def answer(crop: FaceCrop) -> FaceAnalysis:
        gate.wait(10)
        return FaceAnalysis(crop.face, a_verdict())

    return ScriptedDetector(answer, slots=slots)


def test_faces_of_many_threads_are_analysed_together_by_one_thread() -> None:
    detector = ScriptedDetector(slots=8)
    batcher = _batcher(detector)

    asked = [batcher.submit(a_crop(mark), timeout=5) for mark in range(32)]
    answers = [one.answer.result(timeout=5) for one in asked]

    assert len(answers) == 32
    assert sum(detector.groups) == 32
    assert max(detector.groups) > 1
    assert detector.threads == {"engine"}
    batcher.stop(timeout=5)


def test_each_answer_goes_to_the_face_it_is_about() -> None:
    def script(crop: FaceCrop) -> FaceAnalysis:
        return FaceAnalysis(crop.face, a_verdict(score=crop.pixels[0, 0, 0] / 100))

    batcher = _batcher(ScriptedDetector(script))

    asked = [batcher.submit(a_crop(mark), timeout=5) for mark in range(50)]

    assert [one.answer.result(timeout=5).verdict.score for one in asked] == [mark / 100 for mark in range(50)]
    batcher.stop(timeout=5)


def test_a_face_that_fails_fails_alone() -> None:
    def script(crop: FaceCrop) -> FaceAnalysis | BonafideError:
        if crop.pixels[0, 0, 0] == 3:
            return EngineUnavailable("this one does not fit")
        return FaceAnalysis(crop.face, a_verdict())

    batcher = _batcher(ScriptedDetector(script))

    asked = [batcher.submit(a_crop(mark), timeout=5) for mark in range(6)]

    failed = [index for index, one in enumerate(asked) if one.answer.exception(timeout=5) is not None]
    assert failed == [3]
    batcher.stop(timeout=5)


def test_an_engine_that_dies_tells_everybody_who_waits() -> None:
    def script(crop: FaceCrop) -> FaceAnalysis:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    batcher = _batcher(ScriptedDetector(script, slots=2))

    asked = [batcher.submit(a_crop(), timeout=5) for _ in range(2)]

    for one in asked:
        assert isinstance(one.answer.exception(timeout=5), EngineUnavailable)
    batcher.stop(timeout=5)
    assert isinstance(batcher.fault, RuntimeError)
    with pytest.raises(EngineUnavailable):
        batcher.submit(a_crop(), timeout=1)


def test_a_full_line_makes_its_callers_wait_and_then_says_so(gate: threading.Event) -> None:
    batcher = _batcher(_gated(gate, slots=1), capacity=1)
    first = batcher.submit(a_crop(), timeout=5)

    def fill() -> None:
        for _ in range(3):
            batcher.submit(a_crop(), timeout=0.2)

    with pytest.raises(EngineUnavailable, match="full"):
        fill()

    gate.set()
    assert first.answer.result(timeout=5)
    batcher.stop(timeout=5)


def test_stopping_finishes_what_the_model_has_and_refuses_the_line(gate: threading.Event) -> None:
    detector = _gated(gate, slots=1)
    batcher = _batcher(detector)
    taken = batcher.submit(a_crop(), timeout=5)
    _until(lambda: detector.groups == [1])
    waiting = batcher.submit(a_crop(), timeout=5)

    gate.set()
    batcher.stop(timeout=5)

    assert taken.answer.result(timeout=5)
    assert waiting.answer.done()


def test_a_stuck_engine_shows(gate: threading.Event) -> None:
    detector = _gated(gate, slots=1)
    batcher = _batcher(detector)
    assert batcher.stuck_seconds == 0.0

    batcher.submit(a_crop(), timeout=5)
    _until(lambda: detector.groups == [1])
    batcher.moved_at -= 500

    assert batcher.stuck_seconds > 499
    gate.set()
    batcher.stop(timeout=5)


def test_an_engine_that_makes_many_steps_between_two_takings_is_not_stuck(gate: threading.Event) -> None:
    detector = _gated(gate, slots=1)
    batcher = _batcher(detector)
    batcher.submit(a_crop(), timeout=5)
    _until(lambda: detector.groups == [1])
    batcher.moved_at -= 500

    detector.heartbeat.last_step_at = time.monotonic()

    assert batcher.stuck_seconds < 499
    gate.set()
    batcher.stop(timeout=5)


def test_whoever_waits_for_a_stuck_engine_is_told_and_no_more_is_taken(gate: threading.Event) -> None:
    batcher = _batcher(_gated(gate, slots=1))
    stuck, waiting = (batcher.submit(a_crop(), timeout=5) for _ in range(2))
    talk = batcher.converse(a_crop(), (), "Why?")
    while batcher.waiting > 1:
        pass

    batcher.abandon("it has not moved for long")

    for answer in (stuck.answer, waiting.answer, talk.answer):
        with pytest.raises(EngineUnavailable):
            answer.result(timeout=5)
    with pytest.raises(EngineUnavailable):
        batcher.submit(a_crop(), timeout=5)
    assert isinstance(batcher.fault, EngineUnavailable)
    gate.set()
    batcher.stop(timeout=5)


def test_a_question_is_answered_by_the_engine_thread_with_what_was_said_before() -> None:
    detector = ScriptedDetector()
    batcher = _batcher(detector)
    turns = [Turn("Is it real?", "No.")]

    talk = batcher.converse(a_crop(), turns, "Why is that?")

    assert talk.answer.result(timeout=5) == "After 1 answers I say: Why is that?"
    assert detector.threads == {"engine"}
    batcher.stop(timeout=5)


def test_faces_go_on_while_a_long_answer_is_given() -> None:
    detector = ScriptedDetector(seconds=0.002)
    batcher = _batcher(detector)

    talk = batcher.converse(a_crop(), [], "word " * 2000)
    asked = [batcher.submit(a_crop(mark), timeout=5) for mark in range(16)]
    for one in asked:
        assert one.answer.result(timeout=5)

    assert not talk.answer.done()
    assert talk.answer.cancel()
    batcher.stop(timeout=5)


def test_a_question_goes_on_while_the_engine_has_no_room_and_no_face_is_taken() -> None:
    class Full(ScriptedDetector):
        """Every slot is taken until the question is answered."""

        def stream(
            self, take: Callable[[int, bool], Sequence[tuple[K, FaceCrop]] | None]
        ) -> Iterator[tuple[K, FaceAnalysis | BonafideError]]:
            while not talk.answer.done():
                assert take(0, False) == []
            yield from super().stream(take)

    batcher = Batcher(Full(), capacity=8, wait_seconds=0.05)
    talk = batcher.converse(a_crop(), [], "Why is that?")
    asked = batcher.submit(a_crop(), timeout=5)

    batcher.start()

    assert talk.answer.result(timeout=5) == "After 0 answers I say: Why is that?"
    assert asked.answer.result(timeout=5)
    batcher.stop(timeout=5)


def test_a_question_that_nobody_waits_for_any_more_is_dropped() -> None:
    detector = ScriptedDetector(seconds=0.001)
    batcher = _batcher(detector)
    talk = batcher.converse(a_crop(), [], "word " * 100_000)
    _until(lambda: detector.asked)

    talk.answer.cancel()

    assert batcher.converse(a_crop(), [], "Next?").answer.result(timeout=5) == "After 0 answers I say: Next?"
    batcher.stop(timeout=5)


def test_a_question_that_fails_fails_alone() -> None:
    class Fails(ScriptedDetector):
        def converse(
            self, crop: FaceCrop, turns: Sequence[Turn], question: str, *, about: FaceAnalysis | None = None
        ) -> Iterator[str]:
            yield "Well"
            raise EngineUnavailable("no memory for this conversation")

    batcher = _batcher(Fails())

    talk = batcher.converse(a_crop(), [], "Why?")

    assert isinstance(talk.answer.exception(timeout=5), EngineUnavailable)
    assert batcher.submit(a_crop(), timeout=5).answer.result(timeout=5)
    assert batcher.fault is None
    batcher.stop(timeout=5)


def test_stopping_refuses_the_questions(gate: threading.Event) -> None:
    detector = _gated(gate, slots=1)
    batcher = _batcher(detector)
    batcher.submit(a_crop(), timeout=5)
    _until(lambda: detector.groups == [1])
    talk = batcher.converse(a_crop(), [], "Why?")

    gate.set()
    batcher.stop(timeout=5)

    assert isinstance(talk.answer.exception(timeout=5), EngineUnavailable)
    late = batcher.converse(a_crop(), [], "Why?")
    assert isinstance(late.answer.exception(timeout=5), EngineUnavailable)


def _until(true: object) -> None:
    """Wait for another thread, with a deadline."""
    waiting = threading.Event()
    for _ in range(1000):
        if true():  # type: ignore[operator]
            return
        waiting.wait(0.005)
    raise AssertionError("it did not come true within five seconds")
