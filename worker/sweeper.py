"""The sweeper: ends leases that ran out, publishes again what waits too long, and sends webhooks.

Run as many as you like: an advisory lock lets one work at a time. It has no model and no state. Without a sweeper a
case whose message is lost would wait for ever, so `bonafide doctor` checks that one is alive.
"""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import structlog
from prometheus_client import start_http_server
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from moderation import traces
from moderation.archive.erasure import erase_past
from moderation.database.cases import due_cases
from moderation.database.connection import ANSWER_SECONDS, Database, lacks_rights
from moderation.database.drafts import forget_drafts
from moderation.database.moves import expire_leases
from moderation.database.operations import beat, forget_processes, take_sweep_lock
from moderation.database.questions import due_questions
from moderation.database.renditions import FORGET_PAGE as RENDITIONS_PAGE
from moderation.database.renditions import forget_renditions
from moderation.dispatch import Publisher, WorkKind
from moderation.errors import BonafideError, BrokerUnavailable
from moderation.evidence.zones import audit
from moderation.logs import configure_logs
from moderation.rollouts.reruns import due_reruns, give_up_reruns
from moderation.settings import Settings
from moderation.settings import settings as process_settings
from moderation.triage import Lane
from moderation.webhooks.courier import CONNECTIONS, Courier
from moderation.webhooks.delivery_rows import FORGET_PAGE, forget_delivered
from worker.telemetry import LAST_SWEEP, SWEPT, process_name

#: Rows of each kind of work that one look publishes at most, so that its transaction stays short.
PAGE = 1000
#: Seconds between two counts of the messages that are left, while there is more to publish.
GLANCE_SECONDS = 0.1
#: Seconds between two looks for reruns to give up and for rows to forget.
GIVE_UP_SECONDS = 60.0
#: Seconds between two audits of the certificates that are used.
AUDIT_SECONDS = 600.0

log = structlog.get_logger()


@dataclass(frozen=True)
class Swept:
    """What one look did."""

    #: Cases that returned to the line because their lease ran out.
    returned: int = 0
    #: Cases that went to a person because their attempts are exhausted.
    given_up: int = 0
    #: Cases published.
    published: int = 0
    #: Kinds whose queue had no room for more messages: more cases may wait.
    full: tuple[WorkKind, ...] = ()


@dataclass
class Chore:
    """Something that the sweeper does now and again. A failed chore stops no other chore, and no look.

    Its error is logged, and it is tried again when it is due.
    """

    name: str
    #: Seconds between two runs.
    every: float
    #: It returns `True` when there is more to do after the next look. Other values mean nothing.
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
            # `bonafide migrate` grants rights. Anything else is a bug or an unexpected setting.
            code = "rights_missing" if lacks_rights(error) else "fault"
            log.error("sweep_failed", action=self.name, code=code, error=str(error.orig).strip())


def _due_cases(lane: Lane, session: Session, settings: Settings, limit: int) -> Sequence[UUID]:
    return due_cases(session, limit=limit, again_after=settings.publish_again_seconds, lane=lane)


#: For each kind: finds due rows, at most so many, and marks them as published.
DUE: dict[WorkKind, Callable[[Session, Settings, int], Sequence[UUID]]] = {
    WorkKind.ANALYSIS: partial(_due_cases, Lane.LIVE),
    WorkKind.BACKFILL: partial(_due_cases, Lane.BACKFILL),
    WorkKind.QUESTION: due_questions,
    WorkKind.RERUN: due_reruns,
}


def sweep(database: Database, publisher: Publisher, settings: Settings) -> Swept:
    """Look once at the cases. Do nothing while another sweeper works. Raise DatabaseUnavailable."""
    with database.transaction() as session:
        if not take_sweep_lock(session):
            return Swept()
        returned, given_up = expire_leases(
            session, actor="sweeper", attempts_at_most=settings.attempts_at_most
        )
    looks = {
        kind: publish_due(database, publisher, kind, settings)
        for kind in (WorkKind.ANALYSIS, WorkKind.BACKFILL)
    }
    full = tuple(kind for kind, look in looks.items() if look.full)
    return Swept(returned, given_up, sum(look.published for look in looks.values()), full)


@dataclass(frozen=True)
class PublishRound:
    """The result of one look for work of one kind."""

    published: int
    #: Whether the queue had no room for more: more rows may wait.
    full: bool


def publish_due(database: Database, publisher: Publisher, kind: WorkKind, settings: Settings) -> PublishRound:
    """Publish the due rows of a kind, as far as its queue has room. Raise DatabaseUnavailable.

    During a backlog most messages still stand on the queue behind others, and a second message would only be in the
    way. Only messages that are not on the queue are lost.
    """
    room = max(0, min(PAGE, settings.messages_at_most - _queued(publisher, kind, settings)))
    with database.transaction() as session:
        ids = DUE[kind](session, settings, room) if take_sweep_lock(session) else ()
        published = publisher.publish_after_commit(session, kind, ids, unless_queued=True)
    # Fewer published than found: others published some, or the broker takes no messages and there is no hurry.
    taken = not published.left or _queued(publisher, kind, settings) > settings.messages_at_most // 2
    return PublishRound(published.count, full=len(ids) >= room and taken)


def _queued(publisher: Publisher, kind: WorkKind, settings: Settings) -> int:
    """Messages of a kind on its queue. While the broker does not answer, the most that there may be."""
    try:
        return publisher.depth(kind.queue)
    except BrokerUnavailable:
        return settings.messages_at_most


def rest(publisher: Publisher, swept: Swept, settings: Settings, stop: threading.Event) -> None:
    """Wait until workers have taken half of the messages of a full queue, or else for the usual time.

    So a backlog is published as fast as it is taken, and a queue that stays full is checked no more often than an empty
    one.
    """
    if not swept.full:
        stop.wait(settings.sweep_seconds)
        return
    for _ in range(max(1, round(settings.sweep_seconds / GLANCE_SECONDS))):
        try:
            left = min(publisher.depth(kind.queue) for kind in swept.full)
        except BrokerUnavailable:
            stop.wait(settings.sweep_seconds)
            return
        if left <= settings.messages_at_most // 2 or stop.wait(GLANCE_SECONDS):
            return


def sweep_for_ever(settings: Settings, stop: threading.Event) -> None:
    """Look, wait, look again, until `stop`. Wait for what is unavailable."""
    database = Database(settings.database_url.get_secret_value(), pool_size=1, answer_seconds=ANSWER_SECONDS)
    publisher = Publisher(settings.broker_url.get_secret_value(), at_most=settings.messages_at_most)
    chores = _chores(database, publisher, settings)
    while not stop.is_set():
        swept = _look(database, publisher, settings)
        for chore in chores:
            chore.take(time.monotonic())
        rest(publisher, swept, settings, stop)
    database.close()


def _look(database: Database, publisher: Publisher, settings: Settings) -> Swept:
    try:
        swept = sweep(database, publisher, settings)
    except BonafideError as error:
        _log_failure("sweep", error)
        return Swept()
    _tell(swept)
    LAST_SWEEP.set_to_current_time()
    return swept


def _chores(database: Database, publisher: Publisher, settings: Settings) -> list[Chore]:
    """What a sweeper does besides the cases, each in its own transactions. Its heartbeat comes first."""
    name, often = f"sweeper:{process_name()}", settings.sweep_seconds

    def within(do: Callable[[Session], object]) -> Callable[[], object]:
        def done() -> object:
            with database.transaction() as session:
                return do(session)

        return done

    def erase() -> None:
        with database.transaction() as session:
            erased = erase_past(
                session, settings.retention_days, actor="sweeper", keep_hashes=settings.keep_hashes
            )
        if erased:
            log.info("cases_erased", action="retention", erased=erased)

    def audit_certificates() -> None:
        with database.transaction() as session:
            revoked = audit(session, now=datetime.now(UTC))
        for certificate in revoked:
            log.error(
                "certificate_revoked", action="audit", certificate=certificate.id, source=certificate.source
            )

    def forget(session: Session) -> None:
        forget_processes(session)
        forget_drafts(session)

    def forget_deliveries(session: Session) -> bool:
        return forget_delivered(session, days=settings.webhook_log_days) == FORGET_PAGE

    def forget_pictures(session: Session) -> bool:
        return forget_renditions(session, days=settings.image_rendition_days) == RENDITIONS_PAGE

    return [
        Chore("beat", often, within(lambda session: beat(session, name, {}))),
        *(
            Chore(kind.queue, often, partial(publish_due, database, publisher, kind, settings))
            for kind in (WorkKind.QUESTION, WorkKind.RERUN)
        ),
        Chore("give_up_reruns", GIVE_UP_SECONDS, lambda: give_up_reruns(database, settings)),
        Chore("retention", often, erase),
        Chore("certificates", AUDIT_SECONDS, audit_certificates),
        Chore("forget", GIVE_UP_SECONDS, within(forget)),
        Chore("forget_deliveries", GIVE_UP_SECONDS, within(forget_deliveries)),
        Chore("forget_renditions", GIVE_UP_SECONDS, within(forget_pictures)),
    ]


def deliver_for_ever(settings: Settings, stop: threading.Event) -> None:
    """Send webhooks as they become due, until `stop`. Every sweeper sends; each takes what no other has taken."""
    database = Database(
        settings.database_url.get_secret_value(), pool_size=CONNECTIONS, answer_seconds=ANSWER_SECONDS
    )
    try:
        Courier(database, settings).run(stop)
    finally:
        stop.set()  # a bug here ends the whole process, not half of it
        database.close()


def _tell(swept: Swept) -> None:
    for action in ("returned", "given_up", "published"):
        SWEPT.labels(action).inc(getattr(swept, action))
    if swept.returned or swept.given_up:
        log.warning("leases_ran_out", action="sweep", returned=swept.returned, given_up=swept.given_up)


def _log_failure(action: str, error: BonafideError) -> None:
    log.warning("sweep_failed", action=action, code=error.code, error=str(error))


def main() -> None:
    """`python -m worker.sweeper`, or `bonafide sweeper`."""
    settings = process_settings()
    configure_logs(settings)
    traces.start(settings, "bonafide-sweeper")
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if settings.metrics_port is not None:
        start_http_server(settings.metrics_port)
    with ThreadPoolExecutor(1, thread_name_prefix="courier") as thread:
        delivering = thread.submit(deliver_for_ever, settings, stop)
        try:
            sweep_for_ever(settings, stop)
        finally:
            stop.set()
    delivering.result()


if __name__ == "__main__":
    main()
