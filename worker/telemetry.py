"""What the worker reports: metrics for Prometheus, and the case's id on every line of the log."""

import os
import socket
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import structlog
from celery import signals
from prometheus_client import Counter, Gauge, Histogram, Info

from moderation import traces
from moderation.analysis import Analysis
from moderation.errors import StorageUnavailable

T = TypeVar("T")

#: From a millisecond to two minutes, so that both a fetch and a stuck engine show.
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
RELEASES = Counter("bonafide_releases", "Leases released", ["why"])
for _storage in (StorageUnavailable, *StorageUnavailable.__subclasses__()):
    # From 0 on: Prometheus does not see the growth of a series that begins with 1.
    RELEASES.labels(_storage.code)
ATTEMPTS = Histogram(
    "bonafide_attempts", "Which attempt an analysis is, when it begins", buckets=(1, 2, 3, 4, 5, 10)
)
ENGINE_BUSY_SECONDS = Counter(
    "bonafide_engine_busy_seconds", "Seconds the engine's thread had faces to look at"
)
ENGINE_WAITING = Gauge("bonafide_engine_waiting", "Faces that wait for the engine")
GPU_MEMORY = Gauge("bonafide_gpu_memory_bytes", "Memory of this process's GPU", ["kind"])
BUNDLE = Info("bonafide_bundle", "What this worker's verdicts depend on")
BREAKER_OPEN = Gauge(
    "bonafide_breaker_open", "1 while this worker takes no work because its model fails everything"
)
CANDIDATE_STOPPED = Gauge(
    "bonafide_candidate_stopped",
    "1 while this worker does not use a bundle it holds beside the one that serves",
)
RERUN_OUTCOMES = Counter("bonafide_reruns", "Analyses asked for beside a case's own", ["bundle", "outcome"])
LEASES_LOST = Counter("bonafide_leases_lost", "Analyses thrown away because the lease was lost")
LEASES_HELD = Gauge("bonafide_leases_held", "Leases this process holds")
DEAD_LETTERS = Counter("bonafide_dead_letters", "Messages nobody could process")
SWEPT = Counter("bonafide_swept", "What the sweeper did", ["action"])
LAST_SWEEP = Gauge("bonafide_last_sweep_timestamp_seconds", "When this sweeper last looked without an error")


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


def timed_engine(
    take: Callable[[int, bool], Sequence[T] | None],
) -> Callable[[int, bool], Sequence[T] | None]:
    """The same `take`, which counts the engine's time between two calls as busy."""
    given_at = time.monotonic()

    def timed(room: int, idle: bool) -> Sequence[T] | None:  # noqa: FBT001  the engine's contract
        nonlocal given_at
        ENGINE_BUSY_SECONDS.inc(time.monotonic() - given_at)
        batch = take(room, idle)
        given_at = time.monotonic()
        return batch

    return timed


def watch_gpu(device: str) -> None:
    """Report the GPU's memory when the model runs on one."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or device == "cpu":
        return
    gpu = torch.device("cuda" if device == "auto" else device)
    GPU_MEMORY.labels("reserved").set_function(lambda: torch.cuda.memory_reserved(gpu))
    GPU_MEMORY.labels("free").set_function(lambda: torch.cuda.mem_get_info(gpu)[0])
    GPU_MEMORY.labels("total").set_function(lambda: torch.cuda.mem_get_info(gpu)[1])


def follow_messages() -> None:
    """Time every task as part of the trace that published it."""
    running: dict[str, AbstractContextManager[Any]] = {}

    def begin(task_id: str, task: Any, **_: Any) -> None:
        parent = getattr(task.request, "traceparent", None)
        headers = {} if parent is None else {"traceparent": str(parent)}
        running[task_id] = traces.span(task.name, kind="consumer", carried=headers)
        running[task_id].__enter__()

    def end(task_id: str, **_: Any) -> None:
        entered = running.pop(task_id, None)
        if entered is not None:
            entered.__exit__(None, None, None)

    signals.task_prerun.connect(begin, weak=False)
    signals.task_postrun.connect(end, weak=False)


@contextmanager
def about_case(case_id: str) -> Generator[None]:
    """Every line logged inside, and the step being timed, carries the case's id."""
    traces.about(case_id)
    with structlog.contextvars.bound_contextvars(case=case_id):
        yield


def process_name() -> str:
    """The holder of a lease, for operators: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"
