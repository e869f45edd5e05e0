"""The sweeper: takes back leases that ran out, rings again for every case that waits too long, and sends webhooks.

Run as many as you like: an advisory lock lets one work at a time. It holds no model and no state; without it a lost
message would wait for ever, so `bonafide doctor` asks whether one is alive.
"""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from uuid import UUID

import structlog
from prometheus_client import start_http_server
from sqlalchemy.orm import Session

from moderation import traces
from moderation.database.cases import cases_to_ring, mark_unrung
from moderation.database.connection import ANSWER_SECONDS, Database
from moderation.database.erasure import erase_past
from moderation.database.moves import expire_leases
from moderation.database.operations import beat, forget_processes, take_sweep_lock
from moderation.delivery import SENDERS, Courier
from moderation.dispatch import QUEUE_OF, Doorbell
from moderation.errors import BonafideError, BrokerUnavailable
from moderation.logs import configure_logs
from moderation.questions import ring_waiting
from moderation.reruns import ring_reruns
from moderation.settings import Settings, settings
from moderation.triage import Lane
from worker.telemetry import LAST_SWEEP, SWEPT, process_name

#: Cases rung for in one look: a page, so that one transaction stays short.
PAGE = 1000

log = structlog.get_logger()


@dataclass(frozen=True)
class Swept:
    """What one look did."""

    #: Cases whose lease had run out and that went back into the line.
    returned: int = 0
    #: Cases whose attempts were used up and that went to a person.
    given_up: int = 0
    #: Cases rung for.
    rung: int = 0


def sweep(database: Database, doorbell: Doorbell, chosen: Settings) -> Swept:
    """One look. Does nothing while another sweeper works. Raise DatabaseUnavailable."""
    queued = {lane: _queued(doorbell, lane, chosen) for lane in Lane}
    with database.transaction() as session:
        if not take_sweep_lock(session):
            return Swept()
        returned, given_up = expire_leases(session, actor="sweeper", attempts_at_most=chosen.attempts_at_most)
        silent = {lane: _silent(session, lane, queued[lane], chosen) for lane in Lane}
    # Committed first, rung after: a bell that fails here is rung at the next look.
    rung = {lane: doorbell.dispatch_cases(ids, lane) if ids else 0 for lane, ids in silent.items()}
    unrung = [one for lane, ids in silent.items() for one in ids[rung[lane] :]]
    if unrung:
        with database.transaction() as session:
            mark_unrung(session, unrung)
    return Swept(returned, given_up, sum(rung.values()))


def _silent(session: Session, lane: Lane, queued: int, chosen: Settings) -> list[UUID]:
    """The cases of a lane to ring for, as many as it has room for."""
    # While bells are queued, a case that was rung for is behind them and not forgotten: ringing again would only fill
    # the queue with repetitions and let the urgent wait behind them.
    again = chosen.ring_again_seconds if queued <= chosen.bells_at_most // 10 else None
    room = max(0, min(PAGE, chosen.bells_at_most - queued))
    return cases_to_ring(session, limit=room, ring_again_seconds=again, lane=lane)


def _queued(doorbell: Doorbell, lane: Lane, chosen: Settings) -> int:
    """Bells of a lane. As many as may be, while the broker does not answer: leases are taken back all the same."""
    try:
        return doorbell.depth(QUEUE_OF[lane])
    except BrokerUnavailable:
        return chosen.bells_at_most


def sweep_for_ever(chosen: Settings, stop: threading.Event) -> None:
    """Look, wait, look again, until `stop`. What is unavailable is waited for."""
    database = Database(chosen.database_url.get_secret_value(), pool_size=1, answer_seconds=ANSWER_SECONDS)
    doorbell = Doorbell(chosen.broker_url.get_secret_value(), bells_at_most=chosen.bells_at_most)
    name = f"sweeper:{process_name()}"
    while not stop.is_set():
        try:
            swept = sweep(database, doorbell, chosen)
            _tell(swept)
            LAST_SWEEP.set_to_current_time()
            ring_waiting(database, doorbell, chosen)
            ring_reruns(database, doorbell, chosen)
            with database.transaction() as session:
                beat(session, name, {})
                erased = erase_past(session, chosen.retention_days, actor="sweeper")
                forget_processes(session)
            if erased:
                log.info("cases_erased", action="retention", erased=erased)
            full = swept.rung >= PAGE
        except BonafideError as error:
            log.warning("sweep_failed", action="sweep", code=error.code, error=str(error))
            full = False
        # After a full page there is more to ring for: no wait.
        if not full:
            stop.wait(chosen.sweep_seconds)
    database.close()


def deliver_for_ever(chosen: Settings, stop: threading.Event) -> None:
    """Send webhooks as they become due, until `stop`. Every sweeper does: each takes what no other has taken."""
    database = Database(
        chosen.database_url.get_secret_value(), pool_size=SENDERS + 1, answer_seconds=ANSWER_SECONDS
    )
    try:
        Courier(database, chosen).run(stop)
    finally:
        stop.set()  # a bug here ends the process, loudly; it is not half alive
        database.close()


def _tell(swept: Swept) -> None:
    for action, count in vars(swept).items():
        SWEPT.labels(action).inc(count)
    if swept.returned or swept.given_up:
        log.warning("leases_ran_out", action="sweep", returned=swept.returned, given_up=swept.given_up)


def main() -> None:
    """`python -m worker.sweeper`, or `bonafide sweeper`."""
    chosen = settings()
    configure_logs(chosen)
    traces.start(chosen, "bonafide-sweeper")
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if chosen.metrics_port is not None:
        start_http_server(chosen.metrics_port)
    with ThreadPoolExecutor(1, thread_name_prefix="courier") as thread:
        delivering = thread.submit(deliver_for_ever, chosen, stop)
        try:
            sweep_for_ever(chosen, stop)
        finally:
            stop.set()
    delivering.result()


if __name__ == "__main__":
    main()
