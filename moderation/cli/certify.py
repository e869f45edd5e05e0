"""`bonafide certify` and `bonafide drift`: how far the model may be trusted here, and whether the pictures changed."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from moderation.cli.operate import AsJson, open_database
from moderation.database.rollouts import find_bundle, list_bundles
from moderation.errors import RequestRefused
from moderation.evidence import zones
from moderation.evidence.certify import Found, Promise, Zone
from moderation.settings import settings

Days = Annotated[int, typer.Option(min=1, max=366, help="Of the last so many days.")]
Source = Annotated[str | None, typer.Option(help="Of one source alone. Without it: of all together.")]
Bundle = Annotated[
    str | None,
    typer.Option(help="Whose scores: a bundle's name or fingerprint. Without it: the last started."),
]


def certify(
    source: Source = None,
    bundle: Bundle = None,
    zone: Annotated[Zone, typer.Option(help="`clear`: scored low; `likely`: scored high.")] = Zone.CLEAR,
    error: Annotated[float, typer.Option(min=0.0001, max=0.5, help="The part that may be wrong.")] = 0.01,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="How sure of that.")] = 0.95,
    days: Days = 90,
    issue: Annotated[
        bool, typer.Option(help="Store the certificate. It does nothing until an admin turns it on.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Find the widest zone of the score in which the model errs no more than promised, by blind judgements alone."""
    promise, until = Promise(zone, error, confidence), datetime.now(UTC)
    since = until - timedelta(days=days)
    number: int | None = None
    with closing(open_database()) as database, database.transaction() as session:
        fingerprint = _fingerprint(session, bundle)
        share = settings().blind_first_share
        found = zones.seek(session, fingerprint, source, promise, since=since, until=until, blind_share=share)
        if issue and found.certified is not None:
            number = zones.issue(
                session, fingerprint, source, found, since=since, until=until, actor="operator"
            )
    if json_:
        typer.echo(json.dumps(_as_json(found, number)))
    else:
        _show(found, number)
    if found.certified is None:
        raise typer.Exit(1)


def _fingerprint(session: Session, bundle: str | None) -> str:
    """Of the bundle that was named, or of that which a worker started with last. Raise RequestRefused."""
    if bundle is not None:
        return find_bundle(session, bundle).fingerprint
    known = list_bundles(session)
    if not known:
        raise RequestRefused("no worker was started here yet: there are no scores")
    return max(known, key=lambda one: one.last_seen).fingerprint


def _as_json(found: Found, number: int | None) -> dict[str, object]:
    tried = [
        {"threshold": one.threshold, "n": one.n, "errors": one.errors, "bound": round(one.bound, 6)}
        for one in found.tried
    ]
    return {
        "certified": None if found.certified is None else found.certified.threshold,
        "refused": found.refused or None,
        "issued": number,
        "tried": tried,
    }


def _show(found: Found, number: int | None) -> None:
    table = Table("threshold", "judged blind", "errors", "at most", "")
    for one in found.tried:
        chosen = "certified" if one == found.certified else ""
        table.add_row(f"{one.threshold:g}", f"{one.n:,}", f"{one.errors:,}", f"{one.bound:.4f}", chosen)
    Console().print(table)
    if found.certified is None:
        typer.echo(f"no certificate: {found.refused}")
    elif number is not None:
        typer.echo(f"certificate {number} is stored; an admin turns it on in the console, under Certificates")
    else:
        typer.echo("the promise holds; with --issue it is stored")


def drift(
    days: Annotated[int, typer.Option(min=1, max=366, help="Late is what came in so many days.")] = 14,
    before: Annotated[int, typer.Option(min=1, max=366, help="Held against so many days before that.")] = 60,
    bundle: Bundle = None,
    json_: AsJson = False,
) -> None:
    """Hold each source's pictures of late against those before, or of its certificate's days. Exit 1 for an alarm.

    Run it once a week: at that pace there is at most half a false alarm a quarter. What it finds is kept for metrics.
    """
    from moderation.evidence import watch  # needs NumPy, which the console does not

    with closing(open_database()) as database, database.transaction() as session:
        fingerprint = _fingerprint(session, bundle)
        seen = watch.look_at_sources(
            session,
            fingerprint,
            now=datetime.now(UTC),
            late=timedelta(days=days),
            before=timedelta(days=before),
        )
        watch.keep(session, fingerprint, seen)
    for one in seen:
        found = one.look
        shifted = [
            {"name": each.name, "psi": round(each.psi, 4), "expected": round(each.expected, 4),
             "before": each.before, "late": each.late}
            for each in found.shifted
        ]  # fmt: skip
        if json_:
            line = {"source": found.source, "before": found.before, "late": found.late, "p": found.p,
                    "doubt": found.doubt, "alarm": found.alarm, "shifted": shifted,
                    "examples": [str(case) for case in one.examples]}  # fmt: skip
            typer.echo(json.dumps(line))
            continue
        if found.p is None:
            typer.echo(f"{found.source}: too few cases to say ({found.before} before, {found.late} of late)")
            continue
        word = "DRIFT" if found.alarm else "as before"
        typer.echo(f"{found.source}: {word} (p {found.p:.4f}, alarm from {found.doubt:.4f} down)")
        if found.alarm:
            for each in found.shifted[:3]:
                typer.echo(
                    f"    {each.name}: PSI {each.psi:.3f}, {each.expected:.3f} by chance;"
                    f" median {each.before:.3g} before, {each.late:.3g} of late"
                )
            typer.echo("    for example " + " ".join(str(case) for case in one.examples))
    if any(one.look.alarm for one in seen):
        raise typer.Exit(1)
