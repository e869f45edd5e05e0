"""`bonafide certify` and `bonafide drift`: how far to trust the model on these pictures, and whether they changed."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer
from sqlalchemy.orm import Session

from moderation.cli.operate import open_session
from moderation.cli.printing import AsJson, print_json, print_object, print_table, table_of
from moderation.errors import RequestRefused
from moderation.evidence import zones
from moderation.evidence.certify import Found, Promise, Zone
from moderation.rollouts.rollout_rows import find_bundle, list_bundles
from moderation.settings import settings

if TYPE_CHECKING:  # needs NumPy, which the console does not
    from moderation.evidence.watch import Watched

Days = Annotated[int, typer.Option(min=1, max=366, help="Cases of this many last days.")]
Source = Annotated[str | None, typer.Option(help="Cases of this source. Without it: of all sources.")]
Bundle = Annotated[
    str | None,
    typer.Option(help="The bundle that scored: name or fingerprint. Without it: the one started last."),
]


def certify(
    source: Source = None,
    bundle: Bundle = None,
    zone: Annotated[Zone, typer.Option(help="`clear`: scored low; `likely`: scored high.")] = Zone.CLEAR,
    error: Annotated[float, typer.Option(min=0.0001, max=0.5, help="The share that may be wrong.")] = 0.01,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.9999, help="How sure that must be.")] = 0.95,
    days: Days = 90,
    issue: Annotated[
        bool, typer.Option(help="Store the certificate. It does nothing until an admin turns it on.")
    ] = False,
    json_: AsJson = False,
) -> None:
    """Find the widest zone of scores in which the model errs no more than promised. Only blind judgements count."""
    promise, until = Promise(zone, error, confidence), datetime.now(UTC)
    since = until - timedelta(days=days)
    number: int | None = None
    with open_session() as session:
        fingerprint = _fingerprint(session, bundle)
        share = settings().blind_first_share
        found = zones.seek(session, fingerprint, source, promise, since=since, until=until, blind_share=share)
        if issue and found.certified is not None:
            number = zones.issue(
                session, fingerprint, source, found, since=since, until=until, actor="operator"
            )
    if json_:
        print_json(_as_json(found, number))
    else:
        _show(found, number)
    if found.certified is None:
        raise typer.Exit(1)


def _fingerprint(session: Session, bundle: str | None) -> str:
    """That of the named bundle, else of the one that a worker started with last. Raise RequestRefused."""
    if bundle is not None:
        return find_bundle(session, bundle).fingerprint
    known = list_bundles(session)
    if not known:
        raise RequestRefused("no worker was started here yet: there are no scores")
    return max(known, key=lambda bundle: bundle.last_seen).fingerprint


def _as_json(found: Found, number: int | None) -> dict[str, object]:
    return {
        "certified": None if found.certified is None else found.certified.threshold,
        "refused": found.refused or None,
        "issued": number,
        "tried": [{**vars(tried), "bound": round(tried.bound, 6)} for tried in found.tried],
    }


def _show(found: Found, number: int | None) -> None:
    table = table_of(
        found.tried,
        {
            "threshold": lambda tried: f"{tried.threshold:g}",
            "judged blind": "n",
            "errors": "errors",
            "at most": lambda tried: f"{tried.bound:.4f}",
            "": lambda tried: "certified" if tried == found.certified else None,
        },
    )
    print_table(table)
    if found.certified is None:
        typer.echo(f"no certificate: {found.refused}")
    elif number is not None:
        typer.echo(f"certificate {number} is stored; an admin turns it on in the console, under Certificates")
    else:
        typer.echo("the promise holds; with --issue it is stored")


def drift(
    days: Annotated[int, typer.Option(min=1, max=366, help="Days that count as late.")] = 14,
    before: Annotated[int, typer.Option(min=1, max=366, help="Days before those to compare with.")] = 60,
    bundle: Bundle = None,
    json_: AsJson = False,
) -> None:
    """Compare each source's late pictures with those before, or of its certificate's days. Exit 1 for an alarm.

    Run it once a week: then there is at most half a false alarm a quarter. Metrics show what it found last.
    """
    from moderation.evidence import watch  # needs NumPy, which the console does not

    with open_session() as session:
        fingerprint = _fingerprint(session, bundle)
        seen = watch.look_at_sources(
            session,
            fingerprint,
            now=datetime.now(UTC),
            late=timedelta(days=days),
            before=timedelta(days=before),
        )
        watch.keep(session, fingerprint, seen)
    for source in seen:
        print_object(_drift_fields(source), _drift_words(source), as_json=json_)
    if any(source.look.alarm for source in seen):
        raise typer.Exit(1)


def _drift_fields(seen: "Watched") -> dict[str, object]:
    look = seen.look
    shifted = [
        {**vars(shift), "psi": round(shift.psi, 4), "expected": round(shift.expected, 4)}
        for shift in look.shifted
    ]
    examples = [str(case) for case in seen.examples]
    return {**vars(look), "alarm": look.alarm, "shifted": shifted, "examples": examples}


def _drift_words(seen: "Watched") -> str:
    look = seen.look
    if look.p is None:
        return f"{look.source}: too few cases to say ({look.before} before, {look.late} of late)"
    word = "DRIFT" if look.alarm else "as before"
    lines = [f"{look.source}: {word} (p {look.p:.4f}, alarm from {look.doubt:.4f} down)"]
    if look.alarm:
        lines += [
            f"    {shift.name}: PSI {shift.psi:.3f}, {shift.expected:.3f} by chance;"
            f" median {shift.before:.3g} before, {shift.late:.3g} of late"
            for shift in look.shifted[:3]
        ]
        lines.append("    for example " + " ".join(str(case) for case in seen.examples))
    return "\n".join(lines)
