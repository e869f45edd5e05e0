"""The one way of leased work: take it, do it, and record, release or fail it. Suspect work runs in quarantine.

Work is suspect when it may have ended a worker. It runs while this process does nothing else, so it harms no other.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Generic, Protocol, TypeVar
from uuid import UUID

import structlog
from sqlalchemy.orm import Session
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from moderation.errors import BonafideError, DatabaseUnavailable, ImageRejected, LeaseLost, RequestRefused
from worker.retries import Fail, Forget, Release
from worker.station import Station
from worker.telemetry import about_case

log = structlog.get_logger()


class Taken(Protocol):
    """A row that a job holds."""

    @property
    def case_id(self) -> UUID: ...


Held = TypeVar("Held", bound=Taken)
Done = TypeVar("Done")


class Job(Generic[Held, Done]):
    """A kind of leased work: what differs between cases, questions and reruns. It has no state."""

    #: Its name, and the name of what is done, for the log.
    name: ClassVar[str]
    action: ClassVar[str]

    def accepts(self, station: Station, row_id: UUID) -> bool:
        """Whether this worker takes work of this kind now."""
        return not station.draining.is_set()

    def take(self, station: Station, row_id: UUID, *, quarantined: bool) -> Held | None:
        """Hold the row. None: there is nothing to do, or the row is suspect and this is no quarantine."""
        raise NotImplementedError

    def is_suspect(self, station: Station, row_id: UUID) -> bool:
        """Whether the row must be taken in quarantine."""
        raise NotImplementedError

    def holding(self, station: Station, held: Held) -> AbstractContextManager[None]:
        """A context that lasts as long as the row is held."""
        return nullcontext()

    def do(self, station: Station, held: Held) -> Done:
        """The work itself, outside of any transaction."""
        raise NotImplementedError

    def record(self, station: Station, held: Held, done: Done) -> None:
        """Write the result, under the fence."""
        raise NotImplementedError

    def react(self, station: Station, held: Held, error: BaseException) -> Release | Fail | Forget:
        """What to do with the row after this error."""
        raise NotImplementedError

    def release(self, station: Station, session: Session, held: Held, end: Release) -> None:
        raise NotImplementedError

    def fail(self, station: Station, session: Session, held: Held, end: Fail) -> None:
        raise NotImplementedError

    def count(self, station: Station, held: Held, end: Release | Fail | Forget) -> None:
        """Count how the work ended when nothing was recorded."""


def run(station: Station, job: Job[Any, Any], row_id: UUID) -> None:
    """Do one piece of work, if there is any. Safe to run twice for the same row.

    Raise Unavailable when Postgres does not accept the result. Then the hold ends by itself.
    """
    with take(station, job, row_id) as held:
        if held is not None:
            work(station, job, held)


@contextmanager
def take(station: Station, job: Job[Held, Any], row_id: UUID) -> Generator[Held | None]:
    """Hold a row for the length of the block. None: there is nothing to do."""
    if not job.accepts(station, row_id):
        yield None
        return
    with station.quarantine.shared():
        held = job.take(station, row_id, quarantined=False)
        if held is not None:
            with job.holding(station, held):
                yield held
            return
        suspect = job.is_suspect(station, row_id)
    if not suspect:
        yield None
        return
    with station.quarantine.exclusive():
        held = job.take(station, row_id, quarantined=True)
        with nullcontext() if held is None else job.holding(station, held):
            yield held


def work(station: Station, job: Job[Held, Any], held: Held) -> None:
    """Do the work and end it, whatever happens."""
    with about_case(str(held.case_id)):
        try:
            job.record(station, held, job.do(station, held))
        except BaseException as error:  # noqa: BLE001  whatever it was, the work must end
            _end(station, job, held, error)


def _end(station: Station, job: Job[Held, Any], held: Held, error: BaseException) -> None:
    """React to the error. When the fence is lost, another worker has the row, and nothing is written."""
    its_end, its_fault = f"{job.name}_ended", f"{job.name}_failed"
    end = job.react(station, held, error)
    outcome = _outcome(end, error)
    if isinstance(error, BonafideError):
        tell = log.warning if outcome == "given_up" else log.info
        tell(its_end, action=job.action, outcome=outcome, code=error.code, error=str(error))
    else:
        log.error(its_fault, action=job.action, outcome=outcome, exc_info=error)
    try:
        match end:
            case Release() as released:
                write(station, lambda session: job.release(station, session, held, released))
            case Fail() as failed:
                write(station, lambda session: job.fail(station, session, held, failed))
            case Forget():
                pass
    except LeaseLost:
        end = Forget()
    job.count(station, held, end)


def _outcome(end: Release | Fail | Forget, error: BaseException) -> str:
    """What the log calls this end. `given_up`: it failed, and neither the image nor whoever asked was at fault."""
    match end:
        case Release():
            return "released"
        case Fail():
            return "failed" if isinstance(error, (ImageRejected, RequestRefused)) else "given_up"
        case Forget():
            return "lease_lost"


def write(station: Station, work: Callable[[Session], object]) -> None:
    """Do `work` in a transaction. While Postgres does not answer, try again for as long as a lease.

    `work` writes under a fence. If a commit succeeded and we did not hear of it, the next try finds the fence lost and
    stops.
    """
    for attempt in Retrying(
        retry=retry_if_exception_type(DatabaseUnavailable),
        stop=stop_after_delay(station.settings.lease_seconds),
        wait=wait_random_exponential(multiplier=0.2, max=3),
        reraise=True,
    ):
        with attempt, station.database.transaction() as session:
            work(session)
