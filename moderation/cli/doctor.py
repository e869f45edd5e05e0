"""`bonafide doctor`: checks every part and says what to change."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import redis
from sqlalchemy import func, select, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.orm import Session

from moderation.accounts.keys import list_keys
from moderation.addresses import read_broker
from moderation.database.connection import Database, lacks_rights
from moderation.database.health import SILENT_AFTER
from moderation.database.operations import Process, list_processes
from moderation.database.schema import is_current, is_later, missing_roles, tables_without_rights
from moderation.dispatch import Publisher
from moderation.errors import BonafideError
from moderation.rollout import Rollout
from moderation.rollouts.rerun_rows import rerun_backlog
from moderation.rollouts.rollout_rows import LiveWorker, in_force, list_bundles, live_workers
from moderation.settings import Settings
from moderation.storage import Storage

#: Seconds by which this host's clock and Postgres's may differ. S3 refuses signatures from fifteen minutes on.
CLOCKS_APART = 30.0
#: Connections of a worker, besides one for each task thread.
WORKER_EXTRA = 2


@dataclass(frozen=True)
class Finding:
    part: str
    #: None: it could not be checked.
    ok: bool | None
    words: str
    #: False: it could not be checked. Another part must work first, or this process has not the rights.
    looked_at: bool = True


def examine(settings: Settings, *, now: datetime | None = None) -> list[Finding]:
    """Check every part. Nothing is changed."""
    database = Database(settings.database_url.get_secret_value(), pool_size=1, connect_timeout=3)
    looks: list[tuple[str, Sequence[str], Callable[[], str]]] = [
        ("settings", [], lambda: _settings(settings)),
        ("database", [], lambda: _database(database)),
        ("schema", ["database"], lambda: _schema(database)),
        ("roles", ["database", "schema"], lambda: _roles(database)),
        ("clock", ["database"], lambda: _clock(database, now or datetime.now(UTC))),
        ("connections", ["database", "schema"], lambda: _connections(database, settings)),
        ("broker", [], lambda: _broker(settings)),
        ("broker memory", ["broker"], lambda: _broker_memory(settings)),
        ("storage", [], lambda: _storage(settings)),
        ("uploads", [], lambda: _uploads(settings)),
        ("bundle", [], lambda: _bundle(settings)),
        ("times", [], lambda: _times(settings)),
        ("keys", ["database", "schema"], lambda: _keys(database)),
        ("traces", [], lambda: _traces(settings)),
        ("workers", ["database", "schema"], lambda: _alive(database, "worker", "bonafide worker")),
        ("bundles", ["database", "schema"], lambda: _bundles(database)),
        ("sweeper", ["database", "schema"], lambda: _alive(database, "sweeper", "bonafide sweeper")),
    ]
    found: dict[str, Finding] = {}
    try:
        for part, needs, look in looks:
            # A fault is reported once, at its own part, not at every part that needs it.
            lacking = next((need for need in needs if found[need].ok is False), None)
            found[part] = (
                _look(part, look)
                if lacking is None
                else _not_checked(part, f"unknown until the {lacking} works")
            )
    finally:
        database.close()
    return list(found.values())


class _ToMend(BonafideError):
    """Something an operator must change."""


class _NotChecked(BonafideError):
    """Something that cannot be seen from here."""


def _not_checked(part: str, why: str) -> Finding:
    return Finding(part, ok=None, words=why, looked_at=False)


def _look(part: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(part, ok=True, words=look())
    except _NotChecked as error:
        return _not_checked(part, str(error))
    except BonafideError as error:
        return Finding(part, ok=False, words=str(error))
    except ProgrammingError as error:
        if not lacks_rights(error):
            raise
        return _not_checked(part, "this role may not read it: run `bonafide doctor` as the owner too")


def _settings(settings: Settings) -> str:
    if settings.unknown:
        raise _ToMend("; ".join(str(unknown) for unknown in settings.unknown))
    return "all are known"


def _database(database: Database) -> str:
    database.ping()
    return "answers"


def _schema(database: Database) -> str:
    if not is_current(database):
        raise _ToMend("not that of this release: run `bonafide migrate`")
    if is_later(database):
        return "that of a later release, on which this one runs too"
    return "that of this release"


def _roles(database: Database) -> str:
    if missing_roles(database):
        return "not made: every process may do what its own user may"
    without = tables_without_rights(database)
    if without:
        raise _ToMend(
            f"no role may read {', '.join(without)}: run `bonafide migrate` as the owner of the tables"
        )
    return "have their rights"


def _clock(database: Database, now: datetime) -> str:
    with database.transaction() as session:
        there: datetime = session.scalars(select(func.clock_timestamp())).one()
    apart = abs((there - now).total_seconds())
    if apart > CLOCKS_APART:
        raise _ToMend(
            f"this host and Postgres are {apart:.0f} seconds apart: S3 refuses what is signed by a wrong clock"
        )
    return "agrees with that of Postgres"


def _connections(database: Database, settings: Settings) -> str:
    """Every task thread of every worker may want one connection."""
    with database.transaction() as session:
        allowed = int(session.scalar(text("SELECT current_setting('max_connections')")) or 0)
        threads = [
            int(worker.facts.get("threads", settings.worker_threads)) for worker in _seen(session, "worker")
        ]
    wanted = sum(threads) + WORKER_EXTRA * len(threads)
    if wanted > allowed:
        raise _ToMend(
            f"{len(threads)} workers may want {wanted} connections and max_connections is {allowed}: "
            "raise it, put a pooler between, or lower BONAFIDE_WORKER_THREADS"
        )
    return f"{len(threads)} workers may want {wanted} of {allowed}"


def _broker_memory(settings: Settings) -> str:
    client = redis.Redis.from_url(
        read_broker(settings.broker_url.get_secret_value()).redis_url,
        socket_timeout=3,
        socket_connect_timeout=3,
    )
    try:
        facts: dict[str, object] = client.info()  # pyright: ignore[reportAssignmentType]
    except redis.RedisError as error:
        raise _NotChecked(f"the broker does not tell: {error}") from error
    finally:
        client.close()
    if facts.get("cluster_enabled"):
        raise _ToMend("the broker is a Redis Cluster, which Celery cannot rely on: use one server")
    policy = facts.get("maxmemory_policy")
    if policy != "noeviction":
        raise _ToMend(f"when it is full it forgets messages ({policy}): set maxmemory-policy noeviction")
    return "refuses when it is full, and forgets nothing"


def _uploads(settings: Settings) -> str:
    bucket = settings.upload_bucket
    if bucket is not None and bucket not in settings.s3_buckets:
        raise _ToMend(f"uploads go to {bucket!r}, from which nobody may read: add it to BONAFIDE_S3_BUCKETS")
    return f"go to {bucket}" if bucket else "none: no bucket is set"


def _bundle(settings: Settings) -> str:
    from moderation.dfa.gpt.base import SHIPPED

    named = {"BONAFIDE_BUNDLE": settings.bundle}
    if settings.candidate is not None:
        named["BONAFIDE_CANDIDATE"] = settings.candidate
    for setting, name in named.items():
        if name not in SHIPPED and "@" not in name and not (Path(name) / "bundle.toml").is_file():
            raise _ToMend(f"{setting} names {name!r}, and there is no bundle.toml in it (as seen from here)")
    return " and ".join(named.values())


def _times(settings: Settings) -> str:
    if settings.lease_seconds < 3 * settings.sweep_seconds:
        raise _ToMend(
            f"a lease of {settings.lease_seconds:g} seconds is too short for a sweep every {settings.sweep_seconds:g}: "
            "raise BONAFIDE_LEASE_SECONDS or lower BONAFIDE_SWEEP_SECONDS"
        )
    if settings.publish_again_seconds < 2 * settings.sweep_seconds:
        raise _ToMend(
            "every case is published again at nearly every sweep: raise BONAFIDE_PUBLISH_AGAIN_SECONDS above twice "
            "BONAFIDE_SWEEP_SECONDS"
        )
    return "leases, sweeps and messages fit together"


def _keys(database: Database) -> str:
    with database.transaction() as session:
        opened = sum(key.revoked_at is None for key in list_keys(session))
    if not opened:
        raise _ToMend("no platform can call: make a key with `bonafide keys add NAME`")
    return f"{opened} open"


def _traces(settings: Settings) -> str:
    if settings.otlp_endpoint is None:
        return "off"
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        raise _ToMend(
            "BONAFIDE_OTLP_ENDPOINT is set and traces are not installed: pip install 'bonafide-moderation[traces]'"
        )
    try:
        # Any answer will do: it is there.
        httpx.get(settings.otlp_endpoint, timeout=3)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _ToMend(f"nobody answers at BONAFIDE_OTLP_ENDPOINT: {error}") from error
    return f"go to {settings.otlp_endpoint}"


def _bundles(database: Database) -> str:
    with database.transaction() as session:
        rollout, workers = in_force(session), live_workers(session)
        names = {bundle.fingerprint: bundle.name for bundle in list_bundles(session)}
        waiting = sum(backlog.shadow + backlog.anew for backlog in rerun_backlog(session))
    if not workers:
        return "none runs"
    serving = {worker.serves: worker.holds[worker.serves] for worker in workers}
    lacking = [
        worker for worker in workers if rollout.serving is not None and rollout.serving not in worker.holds
    ]
    if lacking:
        raise _ToMend(
            f"{len(lacking)} of {len(workers)} workers do not hold {names.get(rollout.serving or '', 'what')}, which "
            f"was promoted, and go on with {', '.join(sorted({worker.holds[worker.serves] for worker in lacking}))}: "
            "set BONAFIDE_BUNDLE or BONAFIDE_CANDIDATE there, or `bonafide bundles rollback`"
        )
    if len(serving) > 1:
        raise _ToMend(
            f"workers run different pipelines: {', '.join(sorted(serving.values()))}; end the rollout"
        )
    return f"all workers run the same{_trial(rollout, workers, names)}" + (
        f"; {waiting:,} cases wait to be analysed once more" if waiting else ""
    )


def _trial(rollout: Rollout, workers: Sequence[LiveWorker], names: Mapping[str, str]) -> str:
    """The bundle on trial, to be added to a sentence."""
    if rollout.candidate is None:
        return ""
    name = names.get(rollout.candidate, rollout.candidate[:12])
    stopped = sorted({w.stopped[rollout.candidate] for w in workers if rollout.candidate in w.stopped})
    if stopped:
        raise _ToMend(
            f"{name} is on trial and fails ({'; '.join(stopped)}); what serves goes on: `bonafide bundles stop`"
        )
    holding = sum(rollout.candidate in worker.holds for worker in workers)
    if not holding:
        raise _ToMend(f"{name} is on trial and no worker holds it: set BONAFIDE_CANDIDATE")
    return f"; {name} is on trial, held by {holding} of {len(workers)}"


def _broker(settings: Settings) -> str:
    publisher = Publisher(settings.broker_url.get_secret_value(), at_most=settings.messages_at_most)
    return f"answers, {publisher.depth()} messages on the queue"


def _storage(settings: Settings) -> str:
    if not settings.s3_buckets:
        raise _ToMend("no bucket may be read: set BONAFIDE_S3_BUCKETS")
    Storage(settings).ping()
    return f"answers for {', '.join(settings.s3_buckets)}"


def _seen(session: Session, kind: str) -> list[Process]:
    """The processes of this kind that were seen lately."""
    return [
        process
        for process in list_processes(session)
        if process.name.startswith(f"{kind}:") and process.silent_for < SILENT_AFTER
    ]


def _alive(database: Database, kind: str, command: str) -> str:
    with database.transaction() as session:
        alive = _seen(session, kind)
    if not alive:
        raise _ToMend(f"none was seen lately: start one with `{command}`")
    stopped = sorted({str(p.facts["stopped"]) for p in alive if p.facts.get("stopped")})
    if stopped:
        raise _ToMend(f"alive, but taking no work: {'; '.join(stopped)}")
    bundles = sorted({str(p.facts["bundle"]) for p in alive if "bundle" in p.facts})
    return f"{len(alive)} alive" + (f", with {', '.join(bundles)}" if bundles else "")
