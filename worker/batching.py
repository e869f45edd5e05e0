"""From many task threads to one engine thread: faces go in one by one and are analysed in batches.

Only the engine thread touches the model. It takes faces as its slots come free. So no face waits longer than
`wait_seconds` for a batch, and a slow face never holds up a fast one.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import structlog

from moderation.analysis import Analysis, Basis, FaceAnalysis
from moderation.dfa.gpt.conversation import Turn
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.errors import BonafideError, EngineUnavailable
from worker.telemetry import timed_engine

K = TypeVar("K")
T = TypeVar("T")

log = structlog.get_logger()


class LastStep(Protocol):
    #: Monotonic seconds of the model's last step.
    last_step_at: float


class Analyzer(Protocol):
    """What the worker needs of `moderation.dfa.gpt.detector.Detector`."""

    fingerprint: str
    bundle_name: str
    #: What its scores were calibrated on. None: they only order.
    basis: Basis | None
    prompts_version: int

    @property
    def heartbeat(self) -> LastStep: ...
    def prepare(self, data: bytes) -> Prepared: ...
    def stream(
        self, take: Callable[[int, bool], Sequence[tuple[K, FaceCrop]] | None]
    ) -> Iterator[tuple[K, FaceAnalysis | BonafideError]]: ...
    def conclude(self, prepared: Prepared, faces: Sequence[FaceAnalysis]) -> Analysis: ...
    def converse(
        self, crop: FaceCrop, turns: Sequence[Turn], question: str, *, about: FaceAnalysis | None = None
    ) -> Iterator[str]: ...
    def score(self, margin: float) -> float: ...
    def warm(self) -> None: ...


@dataclass(eq=False)
class PendingFace:
    """One face on its way: its crop, where the answer goes, and how long it waited in line."""

    crop: FaceCrop
    answer: Future[FaceAnalysis] = field(default_factory=Future[FaceAnalysis])
    asked_at: float = field(default_factory=time.monotonic)
    #: Seconds in line before the engine took it.
    waited: float = 0.0


@dataclass(eq=False)
class Talk:
    """One question about one face, and where its answer goes."""

    crop: FaceCrop
    turns: Sequence[Turn]
    question: str
    about: FaceAnalysis | None
    answer: Future[str] = field(default_factory=Future[str])
    #: What the model has said so far, and the source of more. None until it begins.
    said: list[str] = field(default_factory=list[str])
    words: Iterator[str] | None = None


class Batcher:
    """Owns the engine thread. Any thread may call `submit` and `converse`; `stop` finishes the faces it took.

    A conversation goes on by one word between the engine's steps, with or without room for faces. So faces and
    questions never wait long for each other.
    """

    def __init__(
        self,
        analyzer: Analyzer,
        *,
        capacity: int,
        wait_seconds: float,
        on_batch: Callable[[int, float], None] = lambda size, waited: None,
    ) -> None:
        self._analyzer = analyzer
        self._wait_seconds = wait_seconds
        self._on_batch = on_batch
        self._asked: queue.Queue[PendingFace] = queue.Queue(maxsize=capacity)
        self._unanswered: set[PendingFace] = set()
        self._talks: queue.Queue[Talk] = queue.Queue(maxsize=capacity)
        self._talk: Talk | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        #: Why the engine thread ended by itself. None: it did not.
        self.fault: BaseException | None = None
        #: Monotonic seconds of the last progress that this class saw.
        self.moved_at = time.monotonic()

    def start(self) -> None:
        self._thread.start()

    def submit(self, crop: FaceCrop, *, timeout: float) -> PendingFace:
        """Line up one face. Wait while the line is full; raise EngineUnavailable after `timeout` or when stopped."""
        asked = PendingFace(crop)
        deadline = time.monotonic() + timeout
        while not self._stop.is_set():
            try:
                self._asked.put(asked, timeout=min(0.5, max(0.01, deadline - time.monotonic())))
            except queue.Full:
                if time.monotonic() > deadline:
                    raise EngineUnavailable("the engine's line stayed full") from None
                continue
            if self._stop.is_set():
                self._refuse(_drained(self._asked))
            return asked
        raise EngineUnavailable("the engine is stopping")

    def converse(
        self, crop: FaceCrop, turns: Sequence[Turn], question: str, *, about: FaceAnalysis | None = None
    ) -> Talk:
        """Line up one question. Raise EngineUnavailable when too many wait or the engine is stopping.

        `about` is the analysis of the face; `turns` came after it. A caller that stops waiting cancels the answer: then
        the model is not asked, or stops talking.
        """
        talk = Talk(crop, turns, question, about)
        try:
            self._talks.put_nowait(talk)
        except queue.Full:
            raise EngineUnavailable("too many questions wait for the engine") from None
        if self._stop.is_set():
            self._refuse_talks(_drained(self._talks))
        return talk

    def stop(self, *, timeout: float) -> None:
        """Finish the faces in the model, refuse the questions and the faces in line, and end the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        self._refuse(_drained(self._asked))

    def abandon(self, why: str) -> None:
        """Give up a stuck engine: every caller that waits gets EngineUnavailable, and no more is taken.

        The thread cannot be ended; nobody reads what it still says.
        """
        self.fault = self.fault or EngineUnavailable(why)
        self._refuse_all()

    @property
    def stuck_seconds(self) -> float:
        """How long the engine has held faces or a question without a step. 0 when it holds none.

        Its own heartbeat shows its steps between two calls of `_take`. Only we know of the steps of a conversation and
        of waiting.
        """
        if not self._unanswered and self._talk is None:
            return 0.0
        return time.monotonic() - max(self.moved_at, self._analyzer.heartbeat.last_step_at)

    @property
    def waiting(self) -> int:
        return self._asked.qsize()

    def _run(self) -> None:
        try:
            for asked, answer in self._analyzer.stream(timed_engine(self._take)):
                self.moved_at = time.monotonic()
                self._unanswered.discard(asked)
                if isinstance(answer, BonafideError):
                    asked.answer.set_exception(answer)
                else:
                    asked.answer.set_result(answer)
        except BaseException as error:
            self.fault = error
            log.error("engine_ended", action="engine", exc_info=error)
        finally:
            self._refuse_all()
            self._talk = None

    def _take(self, room: int, idle: bool) -> Sequence[tuple[PendingFace, FaceCrop]] | None:  # noqa: FBT001  the engine's contract
        """Up to `room` faces, between two steps. When idle, wait for the first and then a little for more."""
        self.moved_at = time.monotonic()
        if self._stop.is_set():
            return None
        talking = self._talk_on()
        batch = self._wait_for_some(room) if idle and not talking else _drained(self._asked, room)
        if batch:
            for asked in batch:
                asked.waited = self.moved_at - asked.asked_at
            self._on_batch(len(batch), batch[0].waited)
            self._unanswered.update(batch)
            self.moved_at = time.monotonic()
        return [(asked, asked.crop) for asked in batch]

    def _talk_on(self) -> bool:
        """Let the model continue its answer to a question, if there is one; return whether it may go on."""
        if self._talk is None:
            try:
                self._talk = self._talks.get_nowait()
            except queue.Empty:
                return False
        talk = self._talk
        try:
            ended = talk.answer.cancelled() or not self._say(talk)
        except Exception as error:  # noqa: BLE001  whoever asked gets the reason; faces go on
            if talk.answer.set_running_or_notify_cancel():
                talk.answer.set_exception(error)
            ended = True
        if ended:
            self._talk = None
        self.moved_at = time.monotonic()
        return True

    def _say(self, talk: Talk) -> bool:
        """Add the next words; False after the last ones."""
        if talk.words is None:
            talk.words = self._analyzer.converse(talk.crop, talk.turns, talk.question, about=talk.about)
        word = next(talk.words, None)
        if word is not None:
            talk.said.append(word)
            return True
        if talk.answer.set_running_or_notify_cancel():
            talk.answer.set_result("".join(talk.said).strip())
        return False

    def _refuse_talks(self, talks: Sequence[Talk]) -> None:
        for talk in talks:
            if talk.answer.set_running_or_notify_cancel():
                talk.answer.set_exception(EngineUnavailable("the engine stopped before it answered"))

    def _wait_for_some(self, room: int) -> list[PendingFace]:
        try:
            # Short, because a question may come.
            batch = [self._asked.get(timeout=0.1)]
        except queue.Empty:
            return []
        until = time.monotonic() + self._wait_seconds
        while len(batch) < room and (left := until - time.monotonic()) > 0:
            try:
                batch.append(self._asked.get(timeout=left))
            except queue.Empty:
                break
        return batch + _drained(self._asked, room - len(batch))

    def _refuse_all(self) -> None:
        """Take no more, and refuse what is in the model and in line."""
        self._stop.set()
        self._refuse([*self._unanswered, *_drained(self._asked)])
        talking = [] if self._talk is None else [self._talk]
        self._refuse_talks([*talking, *_drained(self._talks)])

    def _refuse(self, faces: Sequence[PendingFace]) -> None:
        for face in faces:
            self._unanswered.discard(face)
            if not face.answer.done():
                face.answer.set_exception(
                    EngineUnavailable("the engine stopped before it looked at this face")
                )


def _drained(line: queue.Queue[T], at_most: int | None = None) -> list[T]:
    """What stands in line now, without waiting: all of it, or so much at most."""
    taken = list[T]()
    with contextlib.suppress(queue.Empty):
        while at_most is None or len(taken) < at_most:
            taken.append(line.get_nowait())
    return taken
