"""Which bundle serves and which is on trial: the log of rollouts, the known bundles, and the workers that hold them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from moderation.analysis import Basis
from moderation.database.health import SILENT_AFTER
from moderation.database.operations import list_processes
from moderation.database.shapes import as_value
from moderation.database.tables import BundleRow, RolloutRow
from moderation.errors import RolloutRefused
from moderation.rollout import Action, Rollout, promoted, rolled_back, stopped, tried


@dataclass(frozen=True)
class LogEntry:
    """One line of the log."""

    at: datetime
    actor: str
    action: Action
    rollout: Rollout
    #: The operator's text. None when they gave none.
    note: str | None


@dataclass(frozen=True)
class SeenBundle:
    """A bundle that some worker was started with."""

    fingerprint: str
    #: For people: "mini 2". Several fingerprints may share it, for another release of this code or another policy.
    name: str
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True)
class BundleFacts:
    """What we must know of a bundle even when no worker holds it."""

    #: None: its scores only order.
    basis: Basis | None
    #: Version of its prompt set.
    prompts: int


@dataclass(frozen=True)
class LiveWorker:
    """A worker with a recent heartbeat, and its bundles."""

    process: str
    #: Fingerprint of the bundle that serves in it now.
    serves: str
    #: Fingerprint of its own bundle, which serves when the rollout names none. None: it did not report it.
    own: str | None
    #: Names of its bundles, by fingerprint.
    holds: Mapping[str, str]
    #: Why it does not use a bundle, by fingerprint.
    stopped: Mapping[str, str]
    #: The rollout that it has read. None: it reported none.
    follows: Rollout | None


# --- the log


def in_force(session: Session) -> Rollout:
    """The newest row of the log. Without a row each worker uses its own bundle."""
    row = session.scalars(select(RolloutRow).order_by(RolloutRow.id.desc()).limit(1)).first()
    return Rollout() if row is None else as_value(Rollout, row)


def rollout_log(session: Session) -> list[LogEntry]:
    """All actions, the oldest first."""
    rows = session.scalars(select(RolloutRow).order_by(RolloutRow.id))
    return [as_value(LogEntry, row, rollout=as_value(Rollout, row)) for row in rows]


def try_bundle(
    session: Session, fingerprint: str, *, share: float, shadow: float, actor: str, note: str | None = None
) -> Rollout:
    """Put a bundle on trial. It replaces an earlier candidate. Raise RolloutRefused."""
    return _add(
        session,
        Action.TRY,
        lambda log: tried(_last(log), fingerprint, share=share, shadow=shadow),
        actor,
        note,
    )


def promote(session: Session, *, actor: str, note: str | None = None, force: bool = False) -> Rollout:
    """Let the candidate serve from now on.

    Raise RolloutRefused without a candidate. Without `force`, also when no live worker holds and uses it.
    """

    def next_of(log: Sequence[LogEntry]) -> Rollout:
        rollout = promoted(_last(log))
        if not force:
            _refuse_unless_used(live_workers(session), rollout.serving or "")
        return rollout

    return _add(session, Action.PROMOTE, next_of, actor, note)


def roll_back(session: Session, *, actor: str, note: str | None = None, force: bool = False) -> Rollout:
    """Let the bundle before the last promotion serve again, and end any trial.

    Raise RolloutRefused when no promotion stands. Without `force`, also when it would change nothing: no live worker
    holds and uses that bundle, or the bundle to leave is now every worker's own.
    """

    def next_of(log: Sequence[LogEntry]) -> Rollout:
        rollout = rolled_back([(entry.action, entry.rollout) for entry in log])
        workers, left = live_workers(session), _last(log).serving
        if force:
            return rollout
        if rollout.serving is not None:
            _refuse_unless_used(workers, rollout.serving)
        elif workers and all(worker.own == left for worker in workers):
            raise RolloutRefused(
                "what serves is every live worker's own bundle by now: set BONAFIDE_BUNDLE back, or use --force"
            )
        return rollout

    return _add(session, Action.ROLLBACK, next_of, actor, note)


def _refuse_unless_used(workers: Sequence["LiveWorker"], fingerprint: str) -> None:
    holders = [worker for worker in workers if fingerprint in worker.holds]
    reasons = sorted({w.stopped[fingerprint] for w in holders if fingerprint in w.stopped})
    if not holders:
        raise RolloutRefused("no live worker holds this bundle: set BONAFIDE_CANDIDATE, or use --force")
    if all(fingerprint in worker.stopped for worker in holders):
        raise RolloutRefused(
            f"no worker uses this bundle ({'; '.join(reasons)}): add --force to do it anyway"
        )


def stop_trial(session: Session, *, actor: str, note: str | None = None) -> Rollout:
    """End the trial. Raise RolloutRefused when there is none."""
    return _add(session, Action.STOP, lambda log: stopped(_last(log)), actor, note)


def _add(
    session: Session,
    action: Action,
    next_of: Callable[[Sequence[LogEntry]], Rollout],
    actor: str,
    note: str | None,
) -> Rollout:
    # One at a time, because each row depends on the one before. Readers do not wait.
    session.execute(text("LOCK TABLE rollouts IN SHARE ROW EXCLUSIVE MODE"))
    rollout = next_of(rollout_log(session))
    session.execute(insert(RolloutRow).values(action=action.value, actor=actor, note=note, **vars(rollout)))
    return rollout


def _last(log: Sequence[LogEntry]) -> Rollout:
    return log[-1].rollout if log else Rollout()


# --- bundles


def note_bundles(
    session: Session, names: Mapping[str, str], facts: Mapping[str, BundleFacts] | None = None
) -> None:
    """Note the bundles of a worker that started: names and facts by fingerprint."""
    # In a fixed order, so that two workers do not wait for each other.
    for fingerprint, name in sorted(names.items()):
        told = {"name": name, **_told((facts or {}).get(fingerprint))}
        session.execute(
            upsert(BundleRow)
            .values(fingerprint=fingerprint, **told)
            .on_conflict_do_update(
                index_elements=[BundleRow.fingerprint], set_={**told, "last_seen": func.now()}
            )
        )


def _told(facts: BundleFacts | None) -> dict[str, Any]:
    if facts is None:
        return {}
    basis = facts.basis
    return {
        "basis": None if basis is None else basis.words,
        "basis_sources": None if basis is None else list(basis.sources),
        "prompts": facts.prompts,
    }


def bases_of(session: Session, fingerprints: Collection[str]) -> dict[str, Basis]:
    """What the scores of these bundles were calibrated on, by fingerprint. Unknown ones are left out."""
    rows = session.execute(
        select(BundleRow.fingerprint, BundleRow.basis, BundleRow.basis_sources).where(
            BundleRow.fingerprint.in_(fingerprints), BundleRow.basis.is_not(None)
        )
    )
    return {row.fingerprint: Basis(row.basis, tuple(row.basis_sources or ())) for row in rows}


def list_bundles(session: Session) -> list[SeenBundle]:
    """All bundles ever seen, the latest first."""
    rows = session.scalars(select(BundleRow).order_by(BundleRow.last_seen.desc(), BundleRow.fingerprint))
    return [as_value(SeenBundle, row) for row in rows]


def find_bundle(session: Session, wanted: str) -> SeenBundle:
    """The bundle with this name, or whose fingerprint begins like this (at least eight characters).

    If several share the name, it is the one that live workers hold. Raise RolloutRefused for none or several.
    """
    found = [
        bundle
        for bundle in list_bundles(session)
        if bundle.name == wanted or (len(wanted) >= 8 and bundle.fingerprint.startswith(wanted))
    ]
    if len(found) > 1:
        held = held_by_live_workers(session)
        found = [bundle for bundle in found if bundle.fingerprint in held] or found
    if len(found) > 1:
        named = ", ".join(bundle.fingerprint[:12] for bundle in found)
        raise RolloutRefused(
            f"several bundles are called {wanted!r}: name one by its fingerprint, of {named}"
        )
    if not found:
        raise RolloutRefused(
            f"no worker was ever started with a bundle {wanted!r}: see `bonafide bundles list`"
        )
    return found[0]


# --- workers


def live_workers(session: Session) -> list[LiveWorker]:
    """The workers with a recent heartbeat, as they reported."""
    return [
        _live(process.name, process.facts)
        for process in list_processes(session)
        if process.name.startswith("worker:")
        and process.silent_for < SILENT_AFTER
        and "fingerprint" in process.facts
    ]


def held_by_live_workers(session: Session) -> set[str]:
    """The fingerprints of the bundles that live workers hold."""
    return {fingerprint for worker in live_workers(session) for fingerprint in worker.holds}


def _live(process: str, facts: Mapping[str, Any]) -> LiveWorker:
    serves = str(facts["fingerprint"])
    # A worker of an earlier release holds one bundle and reports only that.
    told: Mapping[str, Any] = facts.get("bundles") or {serves: {"name": facts.get("bundle")}}
    return LiveWorker(
        process,
        serves,
        facts.get("own") or (serves if len(told) == 1 else None),
        {fingerprint: str(bundle.get("name")) for fingerprint, bundle in told.items()},
        {
            fingerprint: str(bundle["stopped"])
            for fingerprint, bundle in told.items()
            if bundle.get("stopped")
        },
        Rollout(**facts["follows"]) if "follows" in facts else None,
    )
