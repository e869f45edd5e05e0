"""A real worker whose model takes a set time per batch, as a GPU would, and whose pictures need no decoding.

    celery -A benchmarks.scale_worker worker -P threads

BENCHMARK_GROUP_SECONDS is what a group of at most BENCHMARK_SLOTS faces takes. Every picture counts as new, whatever
its bytes, so that no analysis is reused.
"""

import hashlib
import os
import secrets

import worker.lifecycle
from moderation.analysis import PictureFacts
from moderation.dfa.gpt.crops import Prepared
from moderation.settings import Settings
from tests.fakes import ScriptedDetector, a_crop
from worker.app import app
from worker.batching import Analyzer

__all__ = ["app"]


def _prepare(data: bytes) -> Prepared:
    new = hashlib.sha256(data + secrets.token_bytes(8)).hexdigest()
    facts = PictureFacts(new, len(data), "JPEG", 100, 100)
    return Prepared(facts=facts, crops=(a_crop(),), judged=(), seconds={"decode": 0.0, "faces": 0.0})


def _scaled(_settings: Settings) -> Analyzer:
    return ScriptedDetector(
        slots=int(os.environ["BENCHMARK_SLOTS"]),
        seconds=float(os.environ["BENCHMARK_GROUP_SECONDS"]),
        prepare=_prepare,
        fingerprint="scaled",
    )


worker.lifecycle.load_analyzer = _scaled
