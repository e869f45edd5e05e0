"""What the worker tells: metrics for Prometheus and the case's id on every line of the log."""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager

import structlog
from prometheus_client import Counter, Gauge, Histogram

from moderation.analysis import Analysis

#: From a millisecond to two minutes: a fetch and a stuck engine both show.
_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

STAGE_SECONDS = Histogram(
    "bonafide_stage_seconds", "Seconds per stage of one image", ["stage"], buckets=_SECONDS
)
LINE_SECONDS = Histogram(
    "bonafide_line_seconds", "Age of a case when its analysis begins", buckets=(*_SECONDS, 600, 3600, 86400)
)
BATCH_FACES = Histogram(
    "bonafide_batch_faces", "Faces the engine took at once", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
ENGINE_WAIT_SECONDS = Histogram(
    "bonafide_engine_wait_seconds", "Seconds a face waited for the engine", buckets=_SECONDS
)
VERDICTS = Counter("bonafide_verdicts", "Analyses recorded", ["label", "technique", "abstain", "reused"])
REFUSALS = Counter("bonafide_refusals", "Cases made ready without an analysis", ["code"])
HAND_BACKS = Counter("bonafide_hand_backs", "Leases handed back", ["why"])
LEASES_LOST = Counter("bonafide_leases_lost", "Analyses thrown away because the lease was lost")
LEASES_HELD = Gauge("bonafide_leases_held", "Leases this process holds")
DEAD_LETTERS = Counter("bonafide_dead_letters", "Messages nobody could process")
SWEPT = Counter("bonafide_swept", "What the sweeper did", ["action"])


def count_analysis(analysis: Analysis) -> None:
    verdict = analysis.verdict
    VERDICTS.labels(
        verdict.label,
        verdict.technique or "none",
        verdict.abstain or "none",
        str(analysis.reused_from is not None),
    ).inc()
    for stage, seconds in analysis.seconds.items():
        STAGE_SECONDS.labels(stage).observe(seconds)


def count_batch(faces: int, waited: float) -> None:
    BATCH_FACES.observe(faces)
    ENGINE_WAIT_SECONDS.observe(waited)


@contextmanager
def about_case(case_id: str) -> Generator[None]:
    """Every line logged inside carries the case's id."""
    with structlog.contextvars.bound_contextvars(case=case_id):
        yield


def process_name() -> str:
    """Who holds a lease, for an operator who looks: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"
