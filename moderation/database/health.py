"""The system's state in numbers, for Prometheus and `bonafide doctor`.

Each number is read from a small index: its cost grows with live rows, not with history.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

#: Counting stops here: an alarm is no different for one more.
COUNT_AT_MOST = 100_000
#: Seconds after which a process that writes a heartbeat every ten counts as gone.
SILENT_AFTER = 45.0


@dataclass(frozen=True)
class Health:
    #: Valid leases, and leases that ran out and that no sweeper has ended yet.
    leases_live: int
    leases_expired: int
    #: Seconds since the oldest ready case became ready. 0 when none is.
    oldest_ready_seconds: float
    #: Questions without an answer.
    questions_unanswered: int
    #: Webhooks that are due, and webhooks that were given up.
    deliveries_due: int
    deliveries_dead: int
    #: Dead letters that nobody has replayed or dismissed.
    dead_letters: int
    #: Processes with a recent heartbeat.
    workers: int
    sweepers: int
    #: Pipelines that workers run now. More than one: a release is under way or was left half done.
    fingerprints: int


_HEALTH = text("""
    SELECT (SELECT count(*) FROM cases WHERE state = 'analyzing' AND lease_expires_at >= now()) AS leases_live,
           (SELECT count(*) FROM cases WHERE state = 'analyzing' AND lease_expires_at < now()) AS leases_expired,
           coalesce((SELECT extract(epoch FROM now() - min(ready_at)) FROM cases WHERE state = 'ready'), 0)
               AS oldest_ready_seconds,
           (SELECT count(*) FROM (SELECT 1 FROM questions WHERE answered_at IS NULL LIMIT :most) AS counted)
               AS questions_unanswered,
           (SELECT count(*) FROM (SELECT 1 FROM deliveries
             WHERE delivered_at IS NULL AND dead_at IS NULL AND due_at <= now() LIMIT :most) AS counted)
               AS deliveries_due,
           (SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE dead_at IS NOT NULL LIMIT :most) AS counted)
               AS deliveries_dead,
           (SELECT count(*) FROM (SELECT 1 FROM dead_letters
             WHERE replayed_at IS NULL AND dismissed_at IS NULL LIMIT :most) AS counted)
               AS dead_letters,
           (SELECT count(*) FROM heartbeats WHERE process LIKE 'worker:%' AND seen_at > now() - alive.within)
               AS workers,
           (SELECT count(*) FROM heartbeats WHERE process LIKE 'sweeper:%' AND seen_at > now() - alive.within)
               AS sweepers,
           (SELECT count(DISTINCT facts ->> 'fingerprint') FROM heartbeats
             WHERE process LIKE 'worker:%' AND seen_at > now() - alive.within) AS fingerprints
    FROM (SELECT make_interval(secs => CAST(:silent AS double precision)) AS within) AS alive
""")


def read_health(session: Session) -> Health:
    row: dict[str, Any] = dict(
        session.execute(_HEALTH, {"most": COUNT_AT_MOST, "silent": SILENT_AFTER}).mappings().one()
    )
    row["oldest_ready_seconds"] = float(row["oldest_ready_seconds"])
    return Health(**row)


@dataclass(frozen=True)
class Trust:
    """How far this installation trusts the model, and whether it still may."""

    #: Certificates in use, and certificates that were revoked within a week.
    used: int
    revoked: int
    #: By source: whether the newest look for drift within three weeks was an alarm.
    drifted: dict[str, bool]
    #: Seconds since the newest look. None: there was none.
    looked_seconds: float | None


_CERTIFICATES = text("""
    SELECT count(*) FILTER (WHERE used_since IS NOT NULL AND revoked_at IS NULL) AS used,
           count(*) FILTER (WHERE revoked_at > now() - interval '7 days') AS revoked
    FROM certificates
""")
_DRIFT = text("""
    SELECT DISTINCT ON (source) source, alarm, extract(epoch FROM now() - at) AS ago FROM drift_looks
    WHERE at > now() - interval '21 days' ORDER BY source, at DESC
""")


def read_trust(session: Session) -> Trust:
    certificates = session.execute(_CERTIFICATES).one()
    looks = session.execute(_DRIFT).all()
    return Trust(
        used=certificates.used,
        revoked=certificates.revoked,
        drifted={row.source: row.alarm for row in looks},
        looked_seconds=min((float(row.ago) for row in looks), default=None),
    )
