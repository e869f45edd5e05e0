"""Who serves and who is on trial: the log of rollouts, the bundles that were seen, and which workers hold which."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from moderation.database.health import SILENT_AFTER
from moderation.database.operations import list_processes
from moderation.database.tables import BundleRow, RolloutRow
from moderation.errors import RolloutRefused
from moderation.rollout import Action, Rollout, promoted, rolled_back, stopped, tried


@dataclass(frozen=True)
class Entry:
    """One line of the log."""

    at: datetime
    actor: str
    action: Action
    rollout: Rollout
    #: In the operator's words. None when they gave none.
    note: str | None


@dataclass(frozen=True)
class SeenBundle:
    """A bundle that some worker was started with."""

    fingerprint: str
    #: For people: "mini 2". Two fingerprints may have the same one: another release of this code, another policy.
    name: str
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True)
class LiveWorker:
    """A worker that was seen lately, and its bundles."""

    process: str
    #: Fingerprint of what serves there now.
    serves: str
    #: Fingerprint of its own bundle, which serves when the rollout names none. None: it has not told which.
    own: str | None
    #: Name of each bundle it holds, by fingerprint.
    holds: Mapping[str, str]
    #: Why it does not use one of them, by fingerprint.
    stopped: Mapping[str, str]
    #: The rollout it has read. None: it has told of none.
    follows: Rollout | None


# --- the log


def in_force(session: Session) -> Rollout:
    """The newest row of the log; without any each worker serves with its own bundle."""
    row = session.scalars(select(RolloutRow).order_by(RolloutRow.id.desc()).limit(1)).first()
    return Rollout() if row is None else _rollout(row)


def rollout_log(session: Session) -> list[Entry]:
    """Everything that was done, the oldest first."""
    rows = session.scalars(select(RolloutRow).order_by(RolloutRow.id))
    return [Entry(row.at, row.actor, Action(row.action), _rollout(row), row.note) for row in rows]


def try_bundle(
    session: Session, fingerprint: str, *, share: float, shadow: float, actor: str, note: str | None = None
) -> Rollout:
    """Put a bundle on trial, in the place of another that may be. Raise RolloutRefused."""
    return _add(
        session,
        Action.TRY,
        lambda log: tried(_last(log), fingerprint, share=share, shadow=shadow),
        actor,
        note,
    )


def promote(session: Session, *, actor: str, note: str | None = None, force: bool = False) -> Rollout:
    """The candidate serves from now on.

    Raise RolloutRefused without one; and unless by `force` when no live worker holds it, or none that does uses it.
    """

    def next_of(log: Sequence[Entry]) -> Rollout:
        rollout = promoted(_last(log))
        if not force:
            _refuse_unless_used(live_workers(session), rollout.serving or "")
        return rollout

    return _add(session, Action.PROMOTE, next_of, actor, note)


def roll_back(session: Session, *, actor: str, note: str | None = None, force: bool = False) -> Rollout:
    """What served before the last promotion serves again, and nothing is on trial.

    Raise RolloutRefused when no promotion stands; and unless by `force` when it would change nothing: no live worker
    holds what would serve, none that does uses it, or what is to be left is every worker's own bundle by now.
    """

    def next_of(log: Sequence[Entry]) -> Rollout:
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
        raise RolloutRefused(f"no worker uses this bundle ({'; '.join(reasons)}): use --force all the same")


def stop_trial(session: Session, *, actor: str, note: str | None = None) -> Rollout:
    """Nothing is on trial any more. Raise RolloutRefused when nothing was."""
    return _add(session, Action.STOP, lambda log: stopped(_last(log)), actor, note)


def _add(
    session: Session,
    action: Action,
    next_of: Callable[[Sequence[Entry]], Rollout],
    actor: str,
    note: str | None,
) -> Rollout:
    # One at a time: what is added follows from what was there. Readers are not kept waiting.
    session.execute(text("LOCK TABLE rollouts IN SHARE ROW EXCLUSIVE MODE"))
    rollout = next_of(rollout_log(session))
    session.execute(insert(RolloutRow).values(action=action.value, actor=actor, note=note, **vars(rollout)))
    return rollout


def _last(log: Sequence[Entry]) -> Rollout:
    return log[-1].rollout if log else Rollout()


def _rollout(row: RolloutRow) -> Rollout:
    return Rollout(row.serving, row.candidate, row.share, row.shadow)


# --- bundles


def note_bundles(session: Session, names: Mapping[str, str]) -> None:
    """A worker was started with these: name by fingerprint."""
    # In one order, so that two workers do not wait for each other.
    for fingerprint, name in sorted(names.items()):
        session.execute(
            upsert(BundleRow)
            .values(fingerprint=fingerprint, name=name)
            .on_conflict_do_update(
                index_elements=[BundleRow.fingerprint], set_={"name": name, "last_seen": func.now()}
            )
        )


def list_bundles(session: Session) -> list[SeenBundle]:
    """All that were ever seen, the latest first."""
    rows = session.scalars(select(BundleRow).order_by(BundleRow.last_seen.desc(), BundleRow.fingerprint))
    return [SeenBundle(row.fingerprint, row.name, row.first_seen, row.last_seen) for row in rows]


def find_bundle(session: Session, wanted: str) -> SeenBundle:
    """The bundle of this name, or whose fingerprint begins so (eight characters at least).

    Of several with one name the one that live workers hold. Raise RolloutRefused when it is none, or not one.
    """
    found = [
        one
        for one in list_bundles(session)
        if one.name == wanted or (len(wanted) >= 8 and one.fingerprint.startswith(wanted))
    ]
    if len(found) > 1:
        held = {fingerprint for worker in live_workers(session) for fingerprint in worker.holds}
        found = [one for one in found if one.fingerprint in held] or found
    if len(found) > 1:
        named = ", ".join(one.fingerprint[:12] for one in found)
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
    """The workers that were seen lately, as they told of themselves."""
    return [
        _live(process.name, process.facts)
        for process in list_processes(session)
        if process.name.startswith("worker:")
        and process.silent_for < SILENT_AFTER
        and "fingerprint" in process.facts
    ]


def _live(process: str, facts: Mapping[str, Any]) -> LiveWorker:
    serves = str(facts["fingerprint"])
    # A worker of an earlier release holds one bundle and tells of no other.
    told: Mapping[str, Any] = facts.get("bundles") or {serves: {"name": facts.get("bundle")}}
    return LiveWorker(
        process,
        serves,
        facts.get("own") or (serves if len(told) == 1 else None),
        {fingerprint: str(one.get("name")) for fingerprint, one in told.items()},
        {fingerprint: str(one["stopped"]) for fingerprint, one in told.items() if one.get("stopped")},
        Rollout(**facts["follows"]) if "follows" in facts else None,
    )
