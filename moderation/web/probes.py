"""Questions of operators and their machines: is it alive, is it ready, how long is the line."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import structlog
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy.orm import Session

from moderation.database.cases import oldest_waiting_seconds, queue_stats
from moderation.database.health import read_health, read_trust
from moderation.database.operations import answer_within
from moderation.database.schema import is_current
from moderation.errors import BonafideError
from moderation.triage import QueueStats
from moderation.web.callers import OnlyKnownParameters, Reader
from moderation.web.problems import RESPONSES, sentence_of
from moderation.web.services import Services, ServicesDep
from moderation.wire import StatsOut

T = TypeVar("T")

#: Seconds that Postgres has for one statement of a scrape. With `WATCHED_WITHIN`, all of them fit into the ten seconds
#: that Prometheus waits.
LOOK_SECONDS = 1.5

log = structlog.get_logger()

router = APIRouter()


@router.get(
    "/v1/queue/stats", responses=RESPONSES, dependencies=[OnlyKnownParameters], summary="How the line stands"
)
def get_stats(services: ServicesDep, key: Reader) -> StatsOut:
    stats = read_stats(services)
    return StatsOut(**vars(stats), estimated_wait_seconds=stats.estimated_wait_seconds)


def read_stats(services: Services) -> QueueStats:
    with services.database.transaction() as session:
        return queue_stats(session)


@router.get("/healthz", summary="Is the process alive")
def healthz() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/readyz", summary="Can it accept cases", responses={503: {"description": "Not yet, or not now"}})
def readyz(services: ServicesDep, response: Response) -> dict[str, str]:
    """Accepting a case needs Postgres and its schema. It does not need the broker, whose loss only delays."""
    checks = {"database": _check_database(services), "broker": _check_broker(services)}
    if checks["database"] != "ok":
        response.status_code = 503
    return checks


def _check_database(services: Services) -> str:
    try:
        services.database.ping()
        if not is_current(services.database):
            return "the schema is not that of this release: run `bonafide migrate`"
    except BonafideError as error:
        return _not_ready("database", error)
    return "ok"


def _check_broker(services: Services) -> str:
    try:
        services.publisher.depth()
    except BonafideError as error:
        return _not_ready("broker", error)
    return "ok"


def _not_ready(part: str, error: BonafideError) -> str:
    log.warning("not_ready", action="readyz", part=part, code=error.code, error=str(error))
    return sentence_of(error)


@router.get("/metrics", include_in_schema=False)
def metrics(services: ServicesDep) -> Response:
    return Response(
        generate_latest(REGISTRY) + generate_latest(LineMetrics(services)), media_type=CONTENT_TYPE_LATEST
    )


class LineMetrics:
    """The line as Prometheus gauges, read from Postgres on demand: Redis does not count what it lost."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Each query is separate: when one fails, the others still report."""
        for look in (_oldest, _line, _health, _trust, _trial, _messages):
            try:
                yield from look(self._services)
            except BonafideError as error:
                log.warning("metrics_missing", action="metrics", look=look.__name__, error=str(error))


def _read(services: Services, read: Callable[[Session], T]) -> T:
    with services.database.transaction() as session:
        answer_within(session, LOOK_SECONDS)
        return read(session)


def _gauge(name: str, meaning: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """A gauge with a value for each value of its label."""
    gauge = GaugeMetricFamily(f"bonafide_{name}", meaning, labels=[label])
    for named, value in values.items():
        gauge.add_metric([named], float(value))
    return gauge


def _oldest(services: Services) -> Iterable[GaugeMetricFamily]:
    """This query is separate: it is cheap for any length of the line, and most alerts need it."""
    yield GaugeMetricFamily(
        "bonafide_oldest_waiting_seconds",
        "Age of the oldest case that waits or is being analysed",
        value=_read(services, oldest_waiting_seconds),
    )


def _line(services: Services) -> Iterable[GaugeMetricFamily]:
    stats = _read(services, queue_stats)
    yield GaugeMetricFamily(
        "bonafide_reruns_waiting", "Cases that wait to be analysed once more", value=stats.reruns
    )
    by_state = {"waiting": stats.waiting, "analyzing": stats.analyzing, "ready": stats.ready}
    yield _gauge("cases", "Live cases by state", "state", by_state)


def _health(services: Services) -> Iterable[GaugeMetricFamily]:
    health = _read(services, read_health)
    leases = {"live": health.leases_live, "expired": health.leases_expired}
    yield _gauge("leases", "Leases on cases", "state", leases)
    processes = {"worker": health.workers, "sweeper": health.sweepers}
    yield _gauge("processes", "Processes that were seen lately", "kind", processes)
    deliveries = {"due": health.deliveries_due, "dead": health.deliveries_dead}
    yield _gauge("deliveries_stored", "Webhooks in the table", "state", deliveries)
    for name, meaning, value in (
        (
            "oldest_ready_seconds",
            "Since when the oldest ready case waits for a person",
            health.oldest_ready_seconds,
        ),
        ("questions_unanswered", "Questions without an answer", health.questions_unanswered),
        ("dead_letters_stored", "Dead letters that nobody has replayed or dismissed", health.dead_letters),
        ("fingerprints", "Pipelines that workers run now", health.fingerprints),
    ):
        yield GaugeMetricFamily(f"bonafide_{name}", meaning, value=value)


def _trust(services: Services) -> Iterable[GaugeMetricFamily]:
    trust = _read(services, read_trust)
    certificates = {"used": trust.used, "revoked": trust.revoked}
    meaning = "Certificates that are used, and those that ended within a week"
    yield _gauge("certificates", meaning, "state", certificates)
    yield _gauge(
        "drifted", "1 where the last look found a source's pictures changed", "source", trust.drifted
    )
    if trust.looked_seconds is not None:
        yield GaugeMetricFamily(
            "bonafide_drift_looked_seconds", "Since when nobody looked for drift", value=trust.looked_seconds
        )


def _trial(services: Services) -> Iterable[GaugeMetricFamily]:
    """The candidate against the serving bundle. Absent numbers are left out."""
    trial = services.trial.latest(now=datetime.now(UTC))
    if trial is None:
        return
    found = trial.comparison
    mean, ratio = found.shift.mean, found.speed.ratio
    for name, meaning, value in (
        ("pictures", "Pictures of the last day that the candidate analysed too", found.n),
        ("agreement", "Share of them with the same label", found.agreed.share),
        ("score_shift", "How much higher the candidate's scores are, mean", mean and mean.value),
        ("engine_ratio", "How often longer the candidate's engine takes, median", ratio and ratio.value),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"bonafide_candidate_{name}", meaning, value=value)
    shares = {
        "serving": found.decided.first_overturned.share,
        "candidate": found.decided.second_overturned.share,
    }
    known = {bundle: share for bundle, share in shares.items() if share is not None}
    yield _gauge("candidate_overturned", "Share of verdicts that people overturned", "bundle", known)


def _messages(services: Services) -> Iterable[GaugeMetricFamily]:
    messages = services.publisher.depth()
    yield GaugeMetricFamily("bonafide_messages", "Messages on the queue of cases", value=messages)
