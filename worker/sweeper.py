"""The sweeper: takes back leases that ran out, rings again for every case that waits too long, and sends webhooks.

Run as many as you like: an advisory lock lets one work at a time. It holds no model and no state; without it a lost
message would wait for ever, so `bonafide doctor` asks whether one is alive.
"""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import structlog
from prometheus_client import start_http_server
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from moderation import traces
from moderation.database.cases import cases_to_ring, mark_unrung
from moderation.database.connection import ANSWER_SECONDS, Database, lacks_rights
from moderation.database.deliveries import FORGET_PAGE, forget_delivered
from moderation.database.drafts import forget_drafts
from moderation.database.erasure import erase_past
from moderation.database.moves import expire_leases
from moderation.database.operations import beat, forget_processes, take_sweep_lock
from moderation.database.renditions import FORGET_PAGE as RENDITIONS_PAGE
from moderation.database.renditions import forget_renditions
from moderation.delivery import CONNECTIONS, Courier
from moderation.dispatch import QUEUE_OF, Doorbell
from moderation.errors import BonafideError, BrokerUnavailable
from moderation.evidence.zones import audit
from moderation.logs import configure_logs
from moderation.questions import ring_waiting
from moderation.reruns import give_up_reruns, ring_reruns
from moderation.settings import Settings, settings
from moderation.triage import Lane
from worker.telemetry import LAST_SWEEP, SWEPT, process_name

#: Cases rung for in one look: a page, so that one transaction stays short.
PAGE = 1000
#: Seconds between two glances at how many bells are left, while there is more to ring for.
GLANCE_SECONDS = 0.1
#: Seconds between two looks for reruns to give up, and for what is to be forgotten.
GIVE_UP_SECONDS = 60.0
#: Seconds between two audits of the certificates that are used.
AUDIT_SECONDS = 600.0

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
    #: Lanes that had no room for more bells, then or now: more cases may wait behind these.
    full: tuple[Lane, ...] = ()


@dataclass
class Chore:
    """Something that is done beside the look, now and again. One that fails keeps no other from being done.

    Nor leases from being taken back: whatever Postgres says to it is logged, and it is tried again when it is due.
    """

    name: str
    #: Seconds from one time to the next.
    every: float
    #: What it returns is looked at for one thing: `True` says that there is more, to be done after the next look.
    do: Callable[[], object]
    #: By the monotonic clock.
    due: float = 0.0

    def take(self, now: float) -> None:
        if now < self.due:
            return
        self.due = now + self.every
        try:
            if self.do() is True:
                self.due = now
        except BonafideError as error:
            _log_failure(self.name, error)
        except DBAPIError as error:
            # `bonafide migrate` grants rights; anything else is a bug or a setting that nobody thought of.
            code = "rights_missing" if lacks_rights(error) else "fault"
            log.error("sweep_failed", action=self.name, code=code, error=str(error.orig).strip())


def sweep(database: Database, doorbell: Doorbell, chosen: Settings) -> Swept:
    """One look. Does nothing while another sweeper works. Raise DatabaseUnavailable."""
    queued = {lane: _queued(doorbell, lane, chosen) for lane in Lane}
    room = {lane: max(0, min(PAGE, chosen.bells_at_most - queued[lane])) for lane in Lane}
    with database.transaction() as session:
        if not take_sweep_lock(session):
            return Swept()
        returned, given_up = expire_leases(session, actor="sweeper", attempts_at_most=chosen.attempts_at_most)
        found = {lane: _not_heard_of(session, lane, room[lane], chosen) for lane in Lane}
    # While a backlog stands, the bell of a case that waits is most likely still on the queue, behind others: a second
    # one would only be in the way. One that was lost is not there, however long the backlog.
    silent = {lane: doorbell.without_bell(ids, QUEUE_OF[lane]) for lane, ids in found.items()}
    # Committed first, rung after: a bell that fails here is rung at the next look.
    rung = {lane: doorbell.dispatch_cases(ids, lane) if ids else 0 for lane, ids in silent.items()}
    unrung = [one for lane, ids in silent.items() for one in ids[rung[lane] :]]
    if unrung:
        with database.transaction() as session:
            mark_unrung(session, unrung)
    full = [
        lane
        for lane, ids in silent.items()
        # Fewer rung than found: others rang meanwhile; or the broker takes no bells, and then there is no hurry.
        if len(found[lane]) >= room[lane]
        and (rung[lane] == len(ids) or _queued(doorbell, lane, chosen) > chosen.bells_at_most // 2)
    ]
    return Swept(returned, given_up, sum(rung.values()), tuple(full))


def _not_heard_of(session: Session, lane: Lane, room: int, chosen: Settings) -> list[UUID]:
    """Cases of a lane that were never rung for, or long ago, as many as it has room for."""
    return cases_to_ring(session, limit=room, ring_again_seconds=chosen.ring_again_seconds, lane=lane)


def _queued(doorbell: Doorbell, lane: Lane, chosen: Settings) -> int:
    """Bells of a lane. As many as may be, while the broker does not answer: leases are taken back all the same."""
    try:
        return doorbell.depth(QUEUE_OF[lane])
    except BrokerUnavailable:
        return chosen.bells_at_most


def rest(doorbell: Doorbell, swept: Swept, chosen: Settings, stop: threading.Event) -> None:
    """Wait for the next look: until workers have taken half of the bells of a lane that was full, or for a while.

    So a backlog is rung for as fast as it is taken, and a queue that stays full is looked at no more often than an
    empty one.
    """
    if not swept.full:
        stop.wait(chosen.sweep_seconds)
        return
    for _ in range(max(1, round(chosen.sweep_seconds / GLANCE_SECONDS))):
        try:
            left = min(doorbell.depth(QUEUE_OF[lane]) for lane in swept.full)
        except BrokerUnavailable:
            stop.wait(chosen.sweep_seconds)
            return
        if left <= chosen.bells_at_most // 2 or stop.wait(GLANCE_SECONDS):
            return


def sweep_for_ever(chosen: Settings, stop: threading.Event) -> None:
    """Look, wait, look again, until `stop`. What is unavailable is waited for."""
    database = Database(chosen.database_url.get_secret_value(), pool_size=1, answer_seconds=ANSWER_SECONDS)
    doorbell = Doorbell(chosen.broker_url.get_secret_value(), bells_at_most=chosen.bells_at_most)
    chores = _chores(database, doorbell, chosen)
    while not stop.is_set():
        swept = _look(database, doorbell, chosen)
        for chore in chores:
            chore.take(time.monotonic())
        rest(doorbell, swept, chosen, stop)
    database.close()


def _look(database: Database, doorbell: Doorbell, chosen: Settings) -> Swept:
    try:
        swept = sweep(database, doorbell, chosen)
    except BonafideError as error:
        _log_failure("sweep", error)
        return Swept()
    _tell(swept)
    LAST_SWEEP.set_to_current_time()
    return swept


def _chores(database: Database, doorbell: Doorbell, chosen: Settings) -> list[Chore]:
    """What a sweeper does beside ringing for cases, each in transactions of its own; that it is alive first."""
    name = f"sweeper:{process_name()}"

    def say_alive() -> None:
        with database.transaction() as session:
            beat(session, name, {})

    def erase() -> None:
        with database.transaction() as session:
            erased = erase_past(
                session, chosen.retention_days, actor="sweeper", keep_hashes=chosen.keep_hashes
            )
        if erased:
            log.info("cases_erased", action="retention", erased=erased)

    def audit_certificates() -> None:
        with database.transaction() as session:
            revoked = audit(session, now=datetime.now(UTC))
        for one in revoked:
            log.error("certificate_revoked", action="audit", certificate=one.id, source=one.source)

    def forget() -> None:
        with database.transaction() as session:
            forget_processes(session)
            forget_drafts(session)

    def forget_deliveries() -> bool:
        with database.transaction() as session:
            return forget_delivered(session, days=chosen.webhook_log_days) == FORGET_PAGE

    def forget_pictures() -> bool:
        with database.transaction() as session:
            return forget_renditions(session, days=chosen.image_rendition_days) == RENDITIONS_PAGE

    often = chosen.sweep_seconds
    return [
        Chore("beat", often, say_alive),
        Chore("questions", often, lambda: ring_waiting(database, doorbell, chosen)),
        Chore("reruns", often, lambda: ring_reruns(database, doorbell, chosen)),
        Chore("give_up_reruns", GIVE_UP_SECONDS, lambda: give_up_reruns(database, chosen)),
        Chore("retention", often, erase),
        Chore("certificates", AUDIT_SECONDS, audit_certificates),
        Chore("forget", GIVE_UP_SECONDS, forget),
        Chore("forget_deliveries", GIVE_UP_SECONDS, forget_deliveries),
        Chore("forget_renditions", GIVE_UP_SECONDS, forget_pictures),
    ]


def deliver_for_ever(chosen: Settings, stop: threading.Event) -> None:
    """Send webhooks as they become due, until `stop`. Every sweeper does: each takes what no other has taken."""
    database = Database(
        chosen.database_url.get_secret_value(), pool_size=CONNECTIONS, answer_seconds=ANSWER_SECONDS
    )
    try:
        Courier(database, chosen).run(stop)
    finally:
        stop.set()  # a bug here ends the process, loudly; it is not half alive
        database.close()


def _tell(swept: Swept) -> None:
    for action in ("returned", "given_up", "rung"):
        SWEPT.labels(action).inc(getattr(swept, action))
    if swept.returned or swept.given_up:
        log.warning("leases_ran_out", action="sweep", returned=swept.returned, given_up=swept.given_up)


def _log_failure(action: str, error: BonafideError) -> None:
    log.warning("sweep_failed", action=action, code=error.code, error=str(error))


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
