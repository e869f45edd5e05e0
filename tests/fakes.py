"""A model whose answers the test chooses: fast, and with the interface of the real one."""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from moderation.analysis import Analysis, Basis, Box, Face, FaceAnalysis, PictureFacts, image_verdict
from moderation.dfa.gpt.conversation import Turn
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.errors import BonafideError
from tests.builders import a_verdict

K = TypeVar("K")


@dataclass
class Heartbeat:
    #: Monotonic seconds of the last step. Long ago: the tests move it.
    last_step_at: float = 0.0


class ScriptedDetector:
    """Finds one face in everything and calls it what `script` says. Takes `seconds` per group of at most `slots`."""

    def __init__(
        self,
        script: Callable[[FaceCrop], FaceAnalysis | BonafideError] | None = None,
        *,
        slots: int = 8,
        seconds: float = 0.0,
        fingerprint: str = "scripted",
        bundle_name: str = "scripted 1",
        basis: Basis | None = None,
        prepare: Callable[[bytes], Prepared] | None = None,
    ) -> None:
        self._script = script or (lambda crop: FaceAnalysis(crop.face, a_verdict()))
        self._slots = slots
        self._seconds = seconds
        self._prepare = prepare or one_face
        self.fingerprint = fingerprint
        self.bundle_name = bundle_name
        self.basis = basis
        self.prompts_version = 1
        self.heartbeat = Heartbeat()
        self.groups: list[int] = []
        self.threads: set[str] = set()
        self.asked: list[tuple[FaceCrop, tuple[Turn, ...], str]] = []
        #: The analysis that came with each question.
        self.reminded: list[FaceAnalysis | None] = []

    def warm(self) -> None:
        """Nothing to load."""

    def score(self, margin: float) -> float:
        return 1 / (1 + math.exp(-margin))

    def prepare(self, data: bytes) -> Prepared:
        return self._prepare(data)

    def stream(
        self, take: Callable[[int, bool], Sequence[tuple[K, FaceCrop]] | None]
    ) -> Iterator[tuple[K, FaceAnalysis | BonafideError]]:
        while (group := take(self._slots, True)) is not None:
            if not group:
                continue
            self.groups.append(len(group))
            self.threads.add(threading.current_thread().name)
            time.sleep(self._seconds)
            for key, crop in group:
                yield key, self._script(crop)

    def converse(
        self, crop: FaceCrop, turns: Sequence[Turn], question: str, *, about: FaceAnalysis | None = None
    ) -> Iterator[str]:
        """Says how many turns went before and repeats the question, a word at a time."""
        self.threads.add(threading.current_thread().name)
        self.asked.append((crop, tuple(turns), question))
        self.reminded.append(about)
        yield f"After {len(turns)} answers I say:"
        for word in question.split():
            time.sleep(self._seconds)
            yield f" {word}"

    def conclude(self, prepared: Prepared, faces: Sequence[FaceAnalysis]) -> Analysis:
        verdict, ordered = image_verdict([*faces, *prepared.judged])
        return Analysis(
            self.fingerprint, self.bundle_name, verdict, ordered, prepared.facts, prepared.seconds
        )


def one_face(data: bytes) -> Prepared:
    facts = PictureFacts(hashlib.sha256(data).hexdigest(), len(data), "JPEG", 100, 100)
    return Prepared(facts=facts, crops=(a_crop(),), judged=(), seconds={"decode": 0.0, "faces": 0.0})


def a_crop(mark: int = 0) -> FaceCrop:
    return FaceCrop(Face(Box(0, 0, 100, 100), 1.0), np.full((8, 8, 3), mark, dtype=np.uint8))
