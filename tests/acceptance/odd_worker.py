"""A real worker whose model misbehaves for pictures of certain widths.

celery -A tests.acceptance.odd_worker worker -P threads
"""

import os
import threading

from kombu.transport import redis as redis_transport

import worker.lifecycle
from moderation.analysis import FaceAnalysis
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.dfa.gpt.pixels import decode_picture
from moderation.settings import Settings
from tests.acceptance.odd_pictures import BUG, EATS_MEMORY, HANGS, KILLS, SLOW
from tests.builders import a_verdict
from tests.fakes import ScriptedDetector, a_crop
from worker.app import app
from worker.batching import Analyzer
from worker.deadletters import KeepingChannel

__all__ = ["app"]


def _prepare(data: bytes) -> Prepared:
    facts = decode_picture(data).facts
    if facts.width == KILLS:
        os._exit(9)
    if facts.width == EATS_MEMORY:
        raise MemoryError
    if facts.width == BUG:
        raise KeyError("a bug in our own code")
    mark = facts.width if facts.width in (HANGS, SLOW) else 0
    return Prepared(facts=facts, crops=(a_crop(mark),), judged=(), seconds={})


def _answer(crop: FaceCrop) -> FaceAnalysis:
    if crop.pixels[0, 0, 0] == HANGS:
        threading.Event().wait()
    if crop.pixels[0, 0, 0] == SLOW:
        threading.Event().wait(2)
    return FaceAnalysis(crop.face, a_verdict())


def _odd(_settings: Settings) -> Analyzer:
    return ScriptedDetector(_answer, prepare=_prepare, fingerprint="odd")


worker.lifecycle.load_analyzer = _odd
if "ODD_LOOP_STUCK" in os.environ:
    worker.lifecycle.LOOP_BEAT = 0.5
    worker.lifecycle.LOOP_STUCK = float(os.environ["ODD_LOOP_STUCK"])
if "ODD_PLAIN_QOS" in os.environ:
    KeepingChannel.QoS = redis_transport.QoS  # pyright: ignore[reportAttributeAccessIssue]  kombu's own
