"""A real worker with a model that costs nothing, or sleeps as long as a GPU would compute.

    celery -A benchmarks.quiet_worker worker -P threads

BENCHMARK_GROUP_SECONDS is what a group of at most BENCHMARK_SLOTS faces takes.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

import worker.lifecycle
from moderation.analysis import Analysis, Basis, FaceAnalysis, Label, Verdict, image_verdict
from moderation.dfa.gpt.calibration import sigmoid
from moderation.dfa.gpt.conversation import Turn
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.dfa.gpt.engine.engine import Heartbeat
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.pixels import crop_face, decode_picture
from moderation.errors import BonafideError
from moderation.settings import Settings
from worker.app import app
from worker.batching import Analyzer

__all__ = ["QuietDetector", "app"]

K = TypeVar("K")

_BONA_FIDE = Verdict(label=Label.BONA_FIDE, score=0.1, margin=-2.2, answer_mass=1.0)


class QuietDetector:
    """Decodes and finds faces as usual, and then gives every face the same verdict."""

    bundle_name = "quiet 1"
    fingerprint = "quiet"
    basis: Basis | None = None
    prompts_version = 1

    def __init__(self, *, slots: int = 32, seconds: float = 0.0) -> None:
        self._slots = slots
        self._seconds = seconds
        self.heartbeat = Heartbeat()

    def warm(self) -> None:
        """Nothing to load."""

    def score(self, margin: float) -> float:
        return sigmoid(margin)

    def converse(
        self, crop: FaceCrop, turns: Sequence[Turn], question: str, *, about: FaceAnalysis | None = None
    ) -> Iterator[str]:
        yield "I say the same of every face."

    def prepare(self, data: bytes) -> Prepared:
        started = time.perf_counter()
        picture = decode_picture(data)
        decoded = time.perf_counter()
        found = find_faces(picture)
        crops = tuple(FaceCrop(face, crop_face(picture, face, 224)) for face in found)
        seconds = {"decode": decoded - started, "faces": time.perf_counter() - decoded}
        return Prepared(facts=picture.facts, crops=crops, judged=(), seconds=seconds)

    def stream(
        self, take: Callable[[int, bool], Sequence[tuple[K, FaceCrop]] | None]
    ) -> Iterator[tuple[K, FaceAnalysis | BonafideError]]:
        while (group := take(self._slots, True)) is not None:
            if group and self._seconds:
                time.sleep(self._seconds)
            self.heartbeat.beat(busy=False)
            for key, crop in group:
                yield key, FaceAnalysis(crop.face, _BONA_FIDE)

    def conclude(self, prepared: Prepared, faces: Sequence[FaceAnalysis]) -> Analysis:
        verdict, ordered = image_verdict([*faces, *prepared.judged])
        return Analysis(
            self.fingerprint, self.bundle_name, verdict, ordered, prepared.facts, prepared.seconds
        )


def _quiet(_settings: Settings) -> Analyzer:
    torch.set_num_threads(1)  # as the real one does
    return QuietDetector(
        slots=int(os.environ.get("BENCHMARK_SLOTS", "32")),
        seconds=float(os.environ.get("BENCHMARK_GROUP_SECONDS", "0")),
    )


worker.lifecycle.load_analyzer = _quiet
