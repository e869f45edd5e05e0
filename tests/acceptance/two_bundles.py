"""A real worker that holds two scripted bundles. The second one behaves as TWO_BUNDLES_SECOND says.

celery -A tests.acceptance.two_bundles worker -P threads
"""

import os
import threading
from pathlib import Path
from typing import Any

import worker.lifecycle
from moderation.analysis import FaceAnalysis
from moderation.dfa.gpt.crops import FaceCrop, Prepared
from moderation.dfa.gpt.pixels import decode_picture
from moderation.settings import Settings
from tests.acceptance.odd_bundles import BUG, DIES, HANGS, NEW, OLD, WAITS, WELL
from tests.builders import a_verdict, bona_fide
from tests.fakes import ScriptedDetector, a_crop
from worker.app import app
from worker.batching import Analyzer

__all__ = ["app"]

_second = os.environ.get("TWO_BUNDLES_SECOND", WELL)
#: Its analyses wait until this file is there, and write another one when they begin.
_gate = Path(os.environ.get("TWO_BUNDLES_GATE", "/nonexistent"))


def _prepare(data: bytes) -> Prepared:
    return Prepared(facts=decode_picture(data).facts, crops=(a_crop(),), judged=(), seconds={})


def _prepare_second(data: bytes) -> Prepared:
    if _second == BUG:
        raise KeyError("a bug in the candidate")
    if _second == WAITS:
        _gate.with_suffix(".begun").touch()
        while not _gate.exists():
            threading.Event().wait(0.05)
    return _prepare(data)


def _answer_second(crop: FaceCrop) -> FaceAnalysis:
    if _second == HANGS:
        threading.Event().wait()
    if _second == DIES:
        raise SystemExit("the engine of the candidate ends")
    return FaceAnalysis(crop.face, a_verdict())


def _first(_settings: Settings) -> Analyzer:
    return ScriptedDetector(
        lambda crop: FaceAnalysis(crop.face, bona_fide()),
        prepare=_prepare,
        fingerprint=OLD,
        bundle_name="dfa 1",
    )


def _candidate(_settings: Settings) -> Any:
    return ScriptedDetector(_answer_second, prepare=_prepare_second, fingerprint=NEW, bundle_name="dfa 2")


worker.lifecycle.load_analyzer = _first
worker.lifecycle.load_candidate = _candidate
# Nobody waits long in a test for what a worker hears and tells.
worker.lifecycle.LOOK_EVERY, worker.lifecycle.BEAT_EVERY = 0.2, 1.0
