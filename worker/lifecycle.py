"""Birth, work and end of a worker process, as Celery's signals tell them.

worker_init            the bundle, and the candidate beside it, are loaded and warmed; nothing is consumed before that
worker_ready           the ready file appears; the loop's heartbeat begins
worker_shutting_down   SIGTERM: no more messages; running cases finish within `drain_seconds`
worker_shutdown        what is left goes back into the line, and the threads end
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
from moderation.database.rollouts import note_bundles
from moderation.database.schema import SCHEMA_BEHIND, is_current
from moderation.dfa.gpt.pixels import Picture, decode_picture
from moderation.errors import BonafideError, SetupProblem
from moderation.evidence.options import Options, gatherer, read_trust_lists
from moderation.logs import configure_logs
from moderation.settings import Settings, settings
from moderation.storage import Storage
from worker.batching import Analyzer, Batcher
from worker.breaker import Breaker
from worker.cores import usable_cores
from worker.decoding import DecodePool
from worker.leases import LeaseKeeper
from worker.renditions import with_renditions
from worker.solitude import Solitude
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

#: Seconds between two heartbeats of the consuming loop, and after how many it counts as stuck.
LOOP_BEAT, LOOP_STUCK = 5.0, 90.0
#: Seconds between two looks at which bundle serves, and between two heartbeats in Postgres.
LOOK_EVERY, BEAT_EVERY = 2.0, 10.0
#: After how many times the engine's limit an image that is still held counts as stuck.
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
    chosen: Settings,
    own: Analyzer,
    candidate: Analyzer | None = None,
    *,
    decode: Callable[[bytes], Picture] | None = None,
) -> Station:
    """Connections, an engine thread for each bundle, and a lease keeper for one process, all running."""
    # Each task thread may want one connection, and the lease keeper must never wait behind them.
    database = Database(
        chosen.database_url.get_secret_value(),
        pool_size=chosen.worker_threads + 2,
        answer_seconds=ANSWER_SECONDS,
    )
    _wait_for_schema(database, chosen.start_wait_seconds)
    owner = process_name()
    options = evidence_options(chosen)
    analyzers = [own]
    if candidate is not None and candidate.fingerprint == own.fingerprint:
        log.warning("candidate_is_own", action="start", bundle=candidate.bundle_name)
    elif candidate is not None:
        analyzers.append(candidate)
    made = Station(
        settings=chosen,
        owner=owner,
        database=database,
        storage=Storage(chosen, connections=chosen.worker_threads),
        pipelines={analyzer.fingerprint: _pipeline(chosen, analyzer) for analyzer in analyzers},
        own=own.fingerprint,
        orders=Orders(database),
        leases=LeaseKeeper(database, owner=owner, lease_seconds=chosen.lease_seconds),
        solitude=Solitude(),
        draining=threading.Event(),
        cores=threading.Semaphore(usable_cores()),
        decode=decode,
        gatherer=None if options is None else gatherer(options),
    )
    with database.transaction() as session:
        note_bundles(session, {analyzer.fingerprint: analyzer.bundle_name for analyzer in analyzers})
    made.orders.look()
    for pipeline in made.pipelines.values():
        pipeline.batcher.start()
    made.leases.start()
    return made


def _pipeline(chosen: Settings, analyzer: Analyzer) -> Pipeline:
    return Pipeline(
        analyzer=analyzer,
        batcher=Batcher(
            analyzer,
            # Two groups ahead of the engine and no more: what waits here holds a lease and memory.
            capacity=max(2, 2 * chosen.worker_threads),
            wait_seconds=chosen.batch_wait_seconds,
            on_batch=count_batch,
        ),
        breaker=Breaker(
            failures=chosen.breaker_failures,
            pause_seconds=chosen.breaker_seconds,
            bundle=analyzer.bundle_name,
        ),
    )


def _wait_for_schema(database: Database, at_most: float) -> None:
    """Return once Postgres answers with this release's schema. Raise what is in the way after `at_most` seconds."""
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


def close_station(made: Station, *, why: str) -> int:
    """Hand back what is still held and end the threads; return how many cases went back."""
    returned = made.leases.hand_all_back(why=why)
    made.leases.stop()
    for pipeline in made.pipelines.values():
        pipeline.batcher.stop(timeout=5)
    made.database.close()
    return returned


@signals.worker_init.connect
def load(sender: Any, **_: Any) -> None:
    """Load the bundle before a message is taken. A worker that cannot work must not start."""
    global _station  # noqa: PLW0603  one per process, made here and nowhere else
    chosen = settings()
    configure_logs(chosen)
    try:
        _refuse_other_pools(sender)
        traces.start(chosen, "bonafide-worker")
        follow_messages()
        # The model first: it takes longest, and in a system that is being started the migrations run meanwhile.
        _station = open_station(
            chosen,
            load_analyzer(chosen),
            load_candidate(chosen),
            decode=open_decoder(chosen),  # pyright: ignore[reportArgumentType]  frozen settings have a hash
        )
        if chosen.metrics_port is not None:
            start_http_server(chosen.metrics_port)
    except BonafideError as error:
        log.critical("worker_cannot_start", action="start", code=error.code, error=str(error))
        # Celery logs and swallows what a signal's handler raises: only leaving the process is heard.
        os._exit(1)
    except BaseException as error:
        log.critical("worker_cannot_start", action="start", exc_info=error)
        os._exit(1)
    LEASES_HELD.set_function(lambda: len(station().leases))
    ENGINE_WAITING.set_function(lambda: sum(one.batcher.waiting for one in station().pipelines.values()))
    BREAKER_OPEN.set_function(lambda: station().serving.stopped is not None)
    CANDIDATE_STOPPED.set_function(lambda: any(one.stopped for one in _others(station())))
    _tell_bundle(station())
    watch_gpu(chosen.device)


def _tell_bundle(here: Station) -> None:
    serving = here.serving.analyzer
    BUNDLE.info({"bundle": serving.bundle_name, "fingerprint": serving.fingerprint})


def _others(here: Station) -> list[Pipeline]:
    """The pipelines beside the one that serves."""
    return [pipeline for pipeline in here.pipelines.values() if pipeline is not here.serving]


def load_analyzer(chosen: Settings) -> Analyzer:
    """The bundle named in the settings, loaded and warmed."""
    return _load(chosen, chosen.bundle)


def load_candidate(chosen: Settings) -> Analyzer | None:
    """The second bundle, loaded and warmed after the first. None when the settings name none."""
    return None if chosen.candidate is None else _load(chosen, chosen.candidate)


def _load(chosen: Settings, bundle: str) -> Analyzer:
    import torch

    from moderation.dfa.gpt.detector import Detector
    from moderation.serving import policy_of

    # Images run beside each other, a thread each: the small nets of the face finder lose more by sharing their work
    # between cores than they gain.
    torch.set_num_threads(1)
    analyzer = Detector.load(
        bundle,
        device=chosen.device,
        policy=policy_of(chosen),
        decode=open_decoder(chosen),  # pyright: ignore[reportArgumentType]  frozen settings have a hash
        # Two bundles: the first leaves room for the second.
        room=1.0 if chosen.candidate is None else 0.5,
    )
    analyzer.warm()
    return analyzer


@functools.lru_cache(maxsize=1)
def open_decoder(chosen: Settings) -> Callable[[bytes], Picture]:
    """How this process decodes pictures, whatever the bundle: in children, or in its own threads."""
    from moderation.serving import limits_of

    limits = limits_of(chosen)
    added = with_renditions if chosen.image_renditions else _as_it_is
    if not chosen.image_decode_children:
        return added(functools.partial(decode_picture, limits=limits))
    # They end with this process: nothing keeps their standard input open then.
    # No more than may be asked for at once.
    children = min(usable_cores(), chosen.worker_threads)
    pool = DecodePool(
        limits, children=children, seconds=chosen.image_decode_seconds, evidence=evidence_options(chosen)
    )
    pool.warm()
    return added(pool.decode)


def _as_it_is(decode: Callable[[bytes], Picture]) -> Callable[[bytes], Picture]:
    return decode


def evidence_options(chosen: Settings) -> Options | None:
    """What children are told of evidence. None: none is gathered. Raise SetupProblem for a trust list that is none."""
    if not chosen.evidence or not chosen.image_decode_children:
        return None
    options = Options(
        tuple(str(path) for path in chosen.evidence_trust_lists),
        chosen.evidence_private,
        chosen.evidence_seconds,
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
    """Consuming begins: say so, and start watching."""
    global _watchdog  # noqa: PLW0603  one per process
    here = station()
    sender.timer.call_repeatedly(LOOP_BEAT, _loop_moves, (sender,))
    limit = here.settings.engine_timeout_seconds
    _watchdog = Watchdog(
        {
            "the consuming loop": (_loop_still_for, LOOP_STUCK),
            "taking from the queue": (_deaf_for, LOOP_STUCK),
            "the engine": (lambda: _engine_still_for(here, limit), limit),
            # Fetching and being recorded have limits of their own; an image of many faces may wait long for the engine.
            "an image": (lambda: here.leases.oldest_seconds, IMAGE_STUCK * limit),
            "the engine's thread": (lambda: float("inf") if here.serving.batcher.fault else 0.0, 1.0),
        },
        alive_file=here.settings.alive_file,
    )
    _watchdog.start()
    if here.settings.ready_file is not None:
        here.settings.ready_file.touch()
    threading.Thread(target=_listen_and_tell, args=(here,), name="heartbeat", daemon=True).start()
    log.info(
        "worker_ready",
        action="start",
        bundle=here.serving.analyzer.bundle_name,
        fingerprint=here.serving.fingerprint,
        holds=[pipeline.analyzer.bundle_name for pipeline in here.pipelines.values()],
    )


def _engine_still_for(here: Station, limit: float) -> float:
    """Seconds that the engine which serves has been stuck. Another one that is stuck for too long is given up alone."""
    for pipeline in _others(here):
        if pipeline.batcher.fault is None and pipeline.batcher.stuck_seconds > limit:
            pipeline.batcher.abandon(f"the engine has not moved for {limit:.0f} seconds")
            log.critical("candidate_given_up", action="watchdog", bundle=pipeline.analyzer.bundle_name)
    return here.serving.batcher.stuck_seconds


def _loop_moves(consumer: Any = None) -> None:
    global _loop_moved_at, _heard_at  # noqa: PLW0603  written by the loop, read by the watchdog
    _loop_moved_at = time.monotonic()
    if consumer is None or _hears(consumer):
        _heard_at = _loop_moved_at


def _hears(consumer: Any) -> bool:
    """Whether it waits for a message or works on one. A loop may turn and do neither: then no bell is ever heard."""
    channel = getattr(consumer.task_consumer, "channel", None)
    return bool(state.reserved_requests) or bool(getattr(channel, "_in_poll", None))


def _deaf_for() -> float:
    return 0.0 if _waits_for_broker else time.monotonic() - _heard_at


def _loop_still_for() -> float:
    return 0.0 if _waits_for_broker else time.monotonic() - _loop_moved_at


@contextmanager
def waiting_for_broker() -> Generator[None]:
    """While the broker is away the loop stands still, and rightly so: Postgres keeps the cases."""
    global _waits_for_broker  # noqa: PLW0603  written by the loop, read by the watchdog
    _waits_for_broker = True
    try:
        yield
    finally:
        _loop_moves()
        _waits_for_broker = False


def _listen_and_tell(here: Station) -> None:
    """Learn which bundle serves, and let operators see in Postgres which workers live, and with which bundles."""
    tell_at = 0.0
    while True:
        try:
            # A new order is confirmed at once: who promotes a bundle watches how far it has come.
            if here.orders.look() or time.monotonic() >= tell_at:
                tell_at = time.monotonic() + BEAT_EVERY
                _tell_bundle(here)
                with here.database.transaction() as session:
                    beat(session, f"worker:{here.owner}", facts_of(here))
        except Exception as error:  # noqa: BLE001  a thread that ends in silence hears no order any more
            log.warning("heartbeat_missed", action="heartbeat", error=str(error))
        time.sleep(LOOK_EVERY)


def facts_of(here: Station) -> dict[str, Any]:
    """What a worker tells of itself: what serves there, and everything that it holds."""
    serving = here.serving
    return {
        "bundle": serving.analyzer.bundle_name,
        "fingerprint": serving.fingerprint,
        "own": here.own,
        "follows": vars(here.orders.known),
        "threads": here.settings.worker_threads,
        "leases": len(here.leases),
        "stopped": serving.stopped,
        "bundles": {
            fingerprint: {"name": pipeline.analyzer.bundle_name, "stopped": pipeline.stopped}
            for fingerprint, pipeline in here.pipelines.items()
        },
    }


@signals.worker_shutting_down.connect
def drain(**_: Any) -> None:
    """SIGTERM: not ready any more. Celery takes no more messages and waits for its threads; we bound the wait."""
    here = _station
    if here is None:
        return
    if here.settings.ready_file is not None:
        here.settings.ready_file.unlink(missing_ok=True)
    here.draining.set()
    log.info("worker_drains", action="stop", leases=len(here.leases), seconds=here.settings.drain_seconds)
    threading.Thread(target=_end_after_drain, args=(here,), name="drain", daemon=True).start()


def _end_after_drain(here: Station) -> None:
    time.sleep(here.settings.drain_seconds)
    try:
        returned = here.leases.hand_all_back(why="the worker stopped")
        log.warning("drain_ended", action="stop", handed_back=returned)
    finally:
        os._exit(0)


@signals.worker_shutdown.connect
def end(**_: Any) -> None:
    """All tasks are finished, or the pool gave up on them."""
    if _watchdog is not None:
        _watchdog.stop()
    if _station is not None:
        close_station(_station, why="the worker stopped")
        log.info("worker_stopped", action="stop")
