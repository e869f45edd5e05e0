"""A real worker with a scripted model. Pictures of certain widths end the process, hang it or lie to it at one step.

celery -A tests.chaos.marked_worker worker -P threads
"""

import os
import random
import threading
import time
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

import worker.analysis as worker_analysis
import worker.lifecycle as lifecycle
from moderation.analysis import Analysis, Face, FaceAnalysis
from moderation.database.analyses import record_analysis
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.dfa.gpt.pixels import decode_picture
from moderation.errors import DatabaseUnavailable
from moderation.settings import Settings
from tests.builders import a_verdict
from tests.chaos.marks import SECONDS, die, once
from tests.chaos.pictures import CANDIDATE, Mark
from tests.fakes import ScriptedDetector, a_crop
from worker.app import app
from worker.batching import Analyzer

__all__ = ["app"]

#: Seconds by which this host's clock is wrong.
_SKEW = float(os.environ.get("CHAOS_CLOCK_SKEW", "0"))
if _SKEW:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _SKEW
    time.time_ns = lambda: _time_ns() + int(_SKEW * 1e9)


def _prepare(data: bytes) -> Prepared:
    facts = decode_picture(data).facts
    time.sleep(SECONDS * random.random() * 2)
    mark, sha256 = Mark.of_width(facts.width), facts.sha256
    if mark is Mark.POISON or (mark is Mark.DIES_PREPARING and once(mark, sha256)):
        die()
    if mark is Mark.OUT_OF_MEMORY and once(mark, sha256):
        raise MemoryError
    crop = a_crop()
    # The engine sees a crop and nothing else: what it has to know is in its pixels.
    crop.pixels[0, :, 0] = facts.width
    crop.pixels[1:5].reshape(-1)[:32] = list(bytes.fromhex(sha256))
    return Prepared(facts=facts, crops=(FaceCrop(crop.face, crop.pixels),), judged=(), seconds={})


def _answer(crop: FaceCrop) -> FaceAnalysis:
    mark = Mark.of_width(int(crop.pixels[0, 0, 0]))
    sha256 = crop.pixels[1:5].reshape(-1)[:32].tobytes().hex()
    if mark is Mark.DIES_ANALYZING and once(mark, sha256):
        die()
    if mark is Mark.HANGS and once(mark, sha256):
        threading.Event().wait()
    face: Face = crop.face
    return FaceAnalysis(face, a_verdict())


class _Detector(ScriptedDetector):
    def conclude(self, prepared: Prepared, faces: Any) -> Analysis:
        if prepared.facts.width == Mark.DIES_CONCLUDING and once(Mark.DIES_CONCLUDING, prepared.facts.sha256):
            die()
        return super().conclude(prepared, faces)


def _record(session: Session, case_id: UUID, token: int, analysis: Analysis, **others: Any) -> None:
    record_analysis(session, case_id, token, analysis, **others)
    mark, sha256 = Mark.of_width(analysis.picture.width), analysis.picture.sha256
    if mark is Mark.DIES_BEFORE_COMMIT and once(mark, sha256):
        die()
    if mark is Mark.DIES_AFTER_COMMIT and once(mark, sha256):
        session.commit()
        die()
    if mark is Mark.AMBIGUOUS and once(mark, sha256):
        session.commit()
        raise DatabaseUnavailable("the connection died after COMMIT was sent")


def _scripted(_settings: Settings) -> Analyzer:
    return _Detector(_answer, prepare=_prepare, fingerprint="chaos", seconds=SECONDS)


def _candidate(_settings: Settings) -> Analyzer:
    return _Detector(_answer, prepare=_prepare, fingerprint=CANDIDATE, seconds=SECONDS)


lifecycle.load_analyzer = _scripted
lifecycle.load_candidate = _candidate
worker_analysis.record_analysis = _record
