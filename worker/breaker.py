"""A model that fails everything stops taking work. Otherwise it would send every case to people without a verdict.

One picture may be strange, but not so many in a row without a single answer. Then the worker takes no more cases and
says why in its log, its heartbeat and a metric. It tries one case again after a while. Each bundle has its own breaker:
a candidate that fails everything goes quiet, and the bundle that serves goes on.
"""

import threading
import time
from collections.abc import Sequence

import structlog

from moderation.analysis import Abstain, FaceAnalysis

#: Reasons to abstain that show a model which does not answer. The other reasons lie in the picture.
_NONSENSE = {Abstain.UNPARSED, Abstain.LOW_ANSWER_MASS}
#: Seconds between two tries of a stopped model, at most.
_LONGEST_PAUSE = 600.0

log = structlog.get_logger()


class Breaker:
    """Safe to share between threads."""

    def __init__(self, *, failures: int, pause_seconds: float, bundle: str = "") -> None:
        self._bundle = bundle
        self._at_most = failures
        self._first_pause = self._pause = pause_seconds
        self._in_a_row = 0
        self._lock = threading.Lock()
        self._try_at = 0.0
        #: While stopped: whether one case was let through as a try. Others that end began earlier and prove nothing.
        self._trying = False
        #: Why no work is taken. None: work is taken.
        self.why: str | None = None

    def allows(self) -> bool:
        """Whether to take a case. While stopped: after each pause, until one case begins."""
        with self._lock:
            return self.why is None or time.monotonic() >= self._try_at

    def begins(self) -> bool:
        """Whether a case that was taken may be analysed. While stopped: only one case after each pause."""
        with self._lock:
            if self.why is None:
                return True
            if time.monotonic() < self._try_at:
                return False
            self._try_at = time.monotonic() + self._pause
            self._trying = True
            return True

    def answered(self, faces: Sequence[FaceAnalysis]) -> None:
        """The model looked at these faces of one image. Without faces it was not asked, and we learn nothing."""
        if not faces:
            return
        nonsense = [face.verdict.abstain for face in faces if face.verdict.abstain in _NONSENSE]
        if len(nonsense) == len(faces):
            self.failed(f"the model does not answer: {nonsense[0]}")
        else:
            self._succeeded()

    def failed(self, why: str) -> None:
        """An analysis ended in a fault of ours, or without a real answer."""
        with self._lock:
            self._in_a_row += 1
            if self._in_a_row < self._at_most or (self.why is not None and not self._trying):
                return
            self._pause = min(2 * self._pause, _LONGEST_PAUSE) if self.why is not None else self._first_pause
            self._try_at = time.monotonic() + self._pause
            self.why, self._trying = why, False
        log.critical(
            "work_stopped",
            action="breaker",
            bundle=self._bundle,
            why=why,
            in_a_row=self._in_a_row,
            pause=self._pause,
        )

    def _succeeded(self) -> None:
        with self._lock:
            was, self.why, self._in_a_row, self._trying = self.why, None, 0, False
        if was is not None:
            log.warning("work_resumed", action="breaker", bundle=self._bundle, why=was)
