"""Start, work and end of a worker process, driven by Celery's signals.

worker_init            the bundle and the candidate are loaded and warmed; nothing is consumed before that
worker_ready           the ready file appears; the loop's heartbeat begins
worker_shutting_down   SIGTERM: no more messages; running cases finish within `drain_seconds`
worker_shutdown        remaining leases are released, and the threads end
"""

import functools
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import structlog
from celery import signals
from celery.worker import state
from prometheus_client import start_http_server

from moderation import traces
from moderation.database.connection import ANSWER_SECONDS, Database
from moderation.database.operations import beat
from moderation.database.schema import SCHEMA_BEHIND, is_current
from moderation.dfa.gpt.pixels import Picture, decode_picture
from moderation.errors import BonafideError, SetupProblem
from moderation.evidence.options import Options, gatherer, read_trust_lists
from moderation.logs import configure_logs
from moderation.rollouts.rollout_rows import BundleFacts, note_bundles
from moderation.settings import Settings
from moderation.settings import settings as process_settings
from moderation.storage import Storage
from worker.batching import Analyzer, Batcher
from worker.breaker import Breaker
from worker.cores import usable_cores
from worker.decoding import DecodePool
from worker.leases import LeaseKeeper
from worker.privates import waits_for_message
from worker.quarantine import Quarantine
from worker.renditions import with_renditions
from worker.station import Orders, Pipeline, Station
from worker.telemetry import (
    BREAKER_OPEN,
    BUNDLE,
    CANDIDATE_STOPPED,
    ENGINE_WAITING,
    LEASES_HELD,
    count_batch,
    follow_messages,
    process_name,
    watch_gpu,
)
from worker.watchdog import Watchdog

#: Seconds between two heartbeats of the consuming loop, and seconds without one after which it counts as stuck.
LOOP_BEAT, LOOP_STUCK = 5.0, 90.0
#: Seconds between two looks for the bundle that serves, and between two heartbeats in Postgres.
LOOK_EVERY, BEAT_EVERY = 2.0, 10.0
#: An image that is held for so many times the engine's limit counts as stuck.
IMAGE_STUCK = 10

log = structlog.get_logger()

_station: Station | None = None
_watchdog: Watchdog | None = None
_loop_moved_at = _heard_at = time.monotonic()
_waits_for_broker = False


def station() -> Station:
    """This process's station. It exists from `worker_init` on."""
    assert _station is not None, "the worker was not initialised"
    return _station


def open_station(
    settings: Settings,
    own: Analyzer,
    candidate: Analyzer | None = None,
    *,
    decode: Callable[[bytes], Picture] | None = None,
) -> Station:
    """Start everything that one process needs: connections, an engine thread per bundle, a lease keeper."""
    # Each task thread may want one connection, and the lease keeper must never wait behind them.
    database = Database(
        settings.database_url.get_secret_value(),
        pool_size=settings.worker_threads + 2,
        answer_seconds=ANSWER_SECONDS,
    )
    _wait_for_schema(database, settings.start_wait_seconds)
    owner = process_name()
    options = evidence_options(settings)
    analyzers = [own]
    if candidate is not None and candidate.fingerprint == own.fingerprint:
        log.warning("candidate_is_own", action="start", bundle=candidate.bundle_name)
    elif candidate is not None:
        analyzers.append(candidate)
    opened = Station(
        settings=settings,
        owner=owner,
        database=database,
        storage=Storage(settings, connections=settings.worker_threads),
        pipelines={analyzer.fingerprint: _pipeline(settings, analyzer) for analyzer in analyzers},
        own=own.fingerprint,
        orders=Orders(database),
        leases=LeaseKeeper(database, owner=owner, lease_seconds=settings.lease_seconds),
        quarantine=Quarantine(),
        draining=threading.Event(),
        cores=threading.Semaphore(usable_cores()),
        decode=decode,
        gatherer=None if options is None else gatherer(options),
    )
    with database.transaction() as session:
        note_bundles(
            session,
            {analyzer.fingerprint: analyzer.bundle_name for analyzer in analyzers},
            {
                analyzer.fingerprint: BundleFacts(analyzer.basis, analyzer.prompts_version)
                for analyzer in analyzers
            },
        )
    opened.orders.look()
    for pipeline in opened.pipelines.values():
        pipeline.batcher.start()
    opened.leases.start()
    return opened


def _pipeline(settings: Settings, analyzer: Analyzer) -> Pipeline:
    return Pipeline(
        analyzer=analyzer,
        batcher=Batcher(
            analyzer,
            # No more than two groups ahead of the engine: each waiting face holds a lease and memory.
            capacity=max(2, 2 * settings.worker_threads),
            wait_seconds=settings.batch_wait_seconds,
            on_batch=count_batch,
        ),
        breaker=Breaker(
            failures=settings.breaker_failures,
            pause_seconds=settings.breaker_seconds,
            bundle=analyzer.bundle_name,
        ),
    )


def _wait_for_schema(database: Database, at_most: float) -> None:
    """Return once Postgres answers with this release's schema. Raise the obstacle after `at_most` seconds."""
    deadline = time.monotonic() + at_most
    while True:
        try:
            database.ping()
            if is_current(database):
                return
            raise SetupProblem(SCHEMA_BEHIND)
        except BonafideError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.2)


def close_station(station: Station, *, why: str) -> int:
    """Release all leases and end the threads; return how many leases there were."""
    returned = station.leases.release_all(why=why)
    station.leases.stop()
    for pipeline in station.pipelines.values():
        pipeline.batcher.stop(timeout=5)
    station.database.close()
    return returned


@signals.worker_init.connect
def load(sender: Any, **_: Any) -> None:
    """Load the bundle before a message is taken. A worker that cannot work must not start."""
    global _station  # noqa: PLW0603  one per process, made here and nowhere else
    settings = process_settings()
    configure_logs(settings)
    try:
        _refuse_other_pools(sender)
        traces.start(settings, "bonafide-worker")
        follow_messages()
        # The model first: it takes longest, and in a new system the migrations run at the same time.
        _station = open_station(
            settings,
            load_analyzer(settings),
            load_candidate(settings),
            decode=open_decoder(settings),  # pyright: ignore[reportArgumentType]  frozen settings have a hash
        )
        if settings.metrics_port is not None:
            start_http_server(settings.metrics_port)
    except BonafideError as error:
        log.critical("worker_cannot_start", action="start", code=error.code, error=str(error))
        # Celery logs and ignores what a signal's handler raises. Only an exit stops it.
        os._exit(1)
    except BaseException as error:
        log.critical("worker_cannot_start", action="start", exc_info=error)
        os._exit(1)
    LEASES_HELD.set_function(lambda: len(station().leases))
    ENGINE_WAITING.set_function(
        lambda: sum(pipeline.batcher.waiting for pipeline in station().pipelines.values())
    )
    BREAKER_OPEN.set_function(lambda: station().serving.stopped is not None)
    CANDIDATE_STOPPED.set_function(lambda: any(pipeline.stopped for pipeline in _others(station())))
    _tell_bundle(station())
    watch_gpu(settings.device)


def _tell_bundle(station: Station) -> None:
    serving = station.serving.analyzer
    BUNDLE.info({"bundle": serving.bundle_name, "fingerprint": serving.fingerprint})


def _others(station: Station) -> list[Pipeline]:
    """The pipelines beside the one that serves."""
    return [pipeline for pipeline in station.pipelines.values() if pipeline is not station.serving]


def load_analyzer(settings: Settings) -> Analyzer:
    """The bundle named in the settings, loaded and warmed."""
    return _load(settings, settings.bundle)


def load_candidate(settings: Settings) -> Analyzer | None:
    """The second bundle, loaded and warmed after the first. None when the settings name none."""
    return None if settings.candidate is None else _load(settings, settings.candidate)


def _load(settings: Settings, bundle: str) -> Analyzer:
    import torch

    from moderation.dfa.gpt.detector import Detector
    from moderation.serving import policy_of

    # Each image has a thread of its own. The face finder's nets are small: several cores per net would cost more than
    # they gain.
    torch.set_num_threads(1)
    analyzer = Detector.load(
        bundle,
        device=settings.device,
        policy=policy_of(settings),
        decode=open_decoder(settings),  # pyright: ignore[reportArgumentType]  frozen settings have a hash
        # Two bundles: the first leaves room for the second.
        room=1.0 if settings.candidate is None else 0.5,
    )
    analyzer.warm()
    return analyzer


@functools.lru_cache(maxsize=1)
def open_decoder(settings: Settings) -> Callable[[bytes], Picture]:
    """How this process decodes pictures for every bundle: in children, or in its own threads."""
    from moderation.serving import limits_of

    limits = limits_of(settings)
    if settings.image_decode_children:
        # The children end with this process, because their standard input closes.
        pool = DecodePool(
            limits,
            children=min(usable_cores(), settings.worker_threads),  # no more than threads that use them
            seconds=settings.image_decode_seconds,
            evidence=evidence_options(settings),
        )
        pool.warm()
        decode = pool.decode
    else:
        decode = functools.partial(decode_picture, limits=limits)
    return with_renditions(decode) if settings.image_renditions else decode


def evidence_options(settings: Settings) -> Options | None:
    """The options for gathering evidence. None: none is gathered. Raise SetupProblem for an unreadable trust list."""
    if not settings.evidence or not settings.image_decode_children:
        return None
    options = Options(
        tuple(str(path) for path in settings.evidence_trust_lists),
        settings.evidence_private,
        settings.evidence_seconds,
    )
    read_trust_lists(options.trust_lists)
    return options


def _refuse_other_pools(worker: Any) -> None:
    pool = str(getattr(worker, "pool_cls", ""))
    if "thread" not in pool:
        raise SetupProblem(
            f"the worker needs Celery's threads pool, not {pool}: start it with `bonafide worker` or `-P threads`"
        )


@signals.worker_ready.connect
def ready(sender: Any, **_: Any) -> None:
    """The worker begins to consume: say so, and start the watchdog."""
    global _watchdog  # noqa: PLW0603  one per process
    current = station()
    sender.timer.call_repeatedly(LOOP_BEAT, _loop_moves, (sender,))
    limit = current.settings.engine_timeout_seconds
    _watchdog = Watchdog(
        {
            "the consuming loop": (_loop_still_for, LOOP_STUCK),
            "taking from the queue": (_deaf_for, LOOP_STUCK),
            "the engine": (lambda: _engine_still_for(current, limit), limit),
            # Fetching and recording have their own limits; an image with many faces may wait long for the engine.
            "an image": (lambda: current.leases.oldest_seconds, IMAGE_STUCK * limit),
            "the engine's thread": (lambda: float("inf") if current.serving.batcher.fault else 0.0, 1.0),
        },
        alive_file=current.settings.alive_file,
    )
    _watchdog.start()
    if current.settings.ready_file is not None:
        current.settings.ready_file.touch()
    threading.Thread(target=_listen_and_tell, args=(current,), name="heartbeat", daemon=True).start()
    log.info(
        "worker_ready",
        action="start",
        bundle=current.serving.analyzer.bundle_name,
        fingerprint=current.serving.fingerprint,
        holds=[pipeline.analyzer.bundle_name for pipeline in current.pipelines.values()],
    )


def _engine_still_for(station: Station, limit: float) -> float:
    """Seconds for which the serving engine has been stuck. Another engine that is stuck too long is given up."""
    for pipeline in _others(station):
        if pipeline.batcher.fault is None and pipeline.batcher.stuck_seconds > limit:
            pipeline.batcher.abandon(f"the engine has not moved for {limit:.0f} seconds")
            log.critical("candidate_given_up", action="watchdog", bundle=pipeline.analyzer.bundle_name)
    return station.serving.batcher.stuck_seconds


def _loop_moves(consumer: Any = None) -> None:
    global _loop_moved_at, _heard_at  # noqa: PLW0603  written by the loop, read by the watchdog
    _loop_moved_at = time.monotonic()
    if consumer is None or _hears(consumer):
        _heard_at = _loop_moved_at


def _hears(consumer: Any) -> bool:
    """Whether it waits for a message or works on one. A loop that turns and does neither never takes a message."""
    return bool(state.reserved_requests) or waits_for_message(consumer)


def _deaf_for() -> float:
    return 0.0 if _waits_for_broker else time.monotonic() - _heard_at


def _loop_still_for() -> float:
    return 0.0 if _waits_for_broker else time.monotonic() - _loop_moved_at


@contextmanager
def waiting_for_broker() -> Generator[None]:
    """Mark a wait for the broker: the loop may stand still, because Postgres keeps the cases."""
    global _waits_for_broker  # noqa: PLW0603  written by the loop, read by the watchdog
    _waits_for_broker = True
    try:
        yield
    finally:
        _loop_moves()
        _waits_for_broker = False


def _listen_and_tell(station: Station) -> None:
    """Learn which bundle serves, and write to Postgres that this worker lives and which bundles it holds."""
    tell_at = 0.0
    while True:
        try:
            # Confirm a new rollout at once: an operator who promotes a bundle watches its progress.
            if station.orders.look() or time.monotonic() >= tell_at:
                tell_at = time.monotonic() + BEAT_EVERY
                _tell_bundle(station)
                with station.database.transaction() as session:
                    beat(session, f"worker:{station.owner}", facts_of(station))
        except Exception as error:  # noqa: BLE001  a thread that ends in silence hears no order any more
            log.warning("heartbeat_missed", action="heartbeat", error=str(error))
        time.sleep(LOOK_EVERY)


def facts_of(station: Station) -> dict[str, Any]:
    """What a worker reports: the bundle that serves in it, and all that it holds."""
    serving = station.serving
    return {
        "bundle": serving.analyzer.bundle_name,
        "fingerprint": serving.fingerprint,
        "own": station.own,
        "follows": vars(station.orders.known),
        "threads": station.settings.worker_threads,
        "leases": len(station.leases),
        "stopped": serving.stopped,
        "bundles": {
            fingerprint: {"name": pipeline.analyzer.bundle_name, "stopped": pipeline.stopped}
            for fingerprint, pipeline in station.pipelines.items()
        },
    }


@signals.worker_shutting_down.connect
def drain(**_: Any) -> None:
    """SIGTERM: no longer ready. Celery takes no more messages and waits for its threads; we limit the wait."""
    current = _station
    if current is None:
        return
    if current.settings.ready_file is not None:
        current.settings.ready_file.unlink(missing_ok=True)
    current.draining.set()
    log.info(
        "worker_drains", action="stop", leases=len(current.leases), seconds=current.settings.drain_seconds
    )
    threading.Thread(target=_end_after_drain, args=(current,), name="drain", daemon=True).start()


def _end_after_drain(station: Station) -> None:
    time.sleep(station.settings.drain_seconds)
    try:
        returned = station.leases.release_all(why="the worker stopped")
        log.warning("drain_ended", action="stop", released=returned)
    finally:
        os._exit(0)


@signals.worker_shutdown.connect
def end(**_: Any) -> None:
    """All tasks have finished, or the pool has given up on them."""
    if _watchdog is not None:
        _watchdog.stop()
    if _station is not None:
        close_station(_station, why="the worker stopped")
        log.info("worker_stopped", action="stop")
