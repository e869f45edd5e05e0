"""`bonafide doctor`: one look at every part, each with what to change."""

from collections.abc import Callable
from dataclasses import dataclass

from moderation.database.connection import Database
from moderation.database.operations import list_processes
from moderation.database.schema import is_current
from moderation.dispatch import Doorbell
from moderation.errors import BonafideError
from moderation.settings import Settings
from moderation.storage import Storage

#: Seconds after which a worker or sweeper that writes a heartbeat every ten counts as gone.
SILENT_AFTER = 45.0


@dataclass(frozen=True)
class Finding:
    part: str
    ok: bool
    words: str


def examine(chosen: Settings) -> list[Finding]:
    """What is right and what is wrong, part by part. Nothing is changed."""
    database = Database(chosen.database_url.get_secret_value(), pool_size=1, connect_timeout=3)
    looks: list[tuple[str, Callable[[], str]]] = [
        ("database", lambda: _database(database)),
        ("schema", lambda: _schema(database)),
        ("broker", lambda: _broker(chosen)),
        ("storage", lambda: _storage(chosen)),
        ("workers", lambda: _alive(database, "worker", "bonafide worker")),
        ("sweeper", lambda: _alive(database, "sweeper", "bonafide sweeper")),
    ]
    return [_look(part, look) for part, look in looks]


class _ToMend(BonafideError):
    """Something an operator must change."""


def _look(part: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(part, True, look())  # noqa: FBT003  the field's name is `ok`
    except BonafideError as error:
        return Finding(part, False, str(error))  # noqa: FBT003


def _database(database: Database) -> str:
    database.ping()
    return "answers"


def _schema(database: Database) -> str:
    database.ping()
    if not is_current(database):
        raise _ToMend("not that of this release: run `bonafide migrate`")
    return "that of this release"


def _broker(chosen: Settings) -> str:
    doorbell = Doorbell(chosen.broker_url.get_secret_value(), bells_at_most=chosen.bells_at_most)
    return f"answers, {doorbell.depth()} bells on the queue"


def _storage(chosen: Settings) -> str:
    if not chosen.s3_buckets:
        raise _ToMend("no bucket may be read: set BONAFIDE_S3_BUCKETS")
    Storage(chosen).ping()
    return f"answers for {', '.join(chosen.s3_buckets)}"


def _alive(database: Database, kind: str, command: str) -> str:
    with database.transaction() as session:
        alive = [
            p
            for p in list_processes(session)
            if p.name.startswith(f"{kind}:") and p.silent_for < SILENT_AFTER
        ]
    if not alive:
        raise _ToMend(f"none was seen lately: start one with `{command}`")
    stopped = sorted({str(p.facts["stopped"]) for p in alive if p.facts.get("stopped")})
    if stopped:
        raise _ToMend(f"alive, but taking no work: {'; '.join(stopped)}")
    bundles = sorted({str(p.facts["bundle"]) for p in alive if "bundle" in p.facts})
    return f"{len(alive)} alive" + (f", with {', '.join(bundles)}" if bundles else "")
