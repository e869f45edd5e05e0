"""A real worker with a model that costs nothing: it decodes and finds faces as usual, and says the same of every face.

celery -A benchmarks.quiet_worker worker -P threads
"""

import time

import torch

import worker.lifecycle
from moderation.analysis import FaceAnalysis
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.dfa.gpt.faces import find_faces
from moderation.dfa.gpt.pixels import crop_face, decode_picture
from moderation.settings import Settings
from tests.builders import bona_fide
from tests.fakes import ScriptedDetector
from worker.app import app
from worker.batching import Analyzer

__all__ = ["app", "quiet"]


def quiet() -> ScriptedDetector:
    return ScriptedDetector(
        lambda crop: FaceAnalysis(crop.face, bona_fide()),
        slots=32,
        fingerprint="quiet",
        bundle_name="quiet 1",
        prepare=_prepare,
    )


def _prepare(data: bytes) -> Prepared:
    started = time.perf_counter()
    picture = decode_picture(data)
    decoded = time.perf_counter()
    crops = tuple(FaceCrop(face, crop_face(picture, face, 224)) for face in find_faces(picture))
    seconds = {"decode": decoded - started, "faces": time.perf_counter() - decoded}
    return Prepared(facts=picture.facts, crops=crops, judged=(), seconds=seconds)


def _load(_settings: Settings) -> Analyzer:
    torch.set_num_threads(1)  # as the real one does
    return quiet()


worker.lifecycle.load_analyzer = _load
