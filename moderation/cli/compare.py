"""`bonafide bundles compare`: two bundles side by side, as tables for people or one object for machines."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from moderation.analysis import Label
from moderation.cli.operate import in_utc, moment, open_session
from moderation.cli.printing import OneObject, print_json
from moderation.intervals import Measure, Share
from moderation.rollouts.comparison import Against, BundleVerdict, Comparison, Pair, Timing
from moderation.rollouts.rollout_rows import SeenBundle, find_bundle
from moderation.rollouts.standings import USUAL_DAYS, SideBySide, side_by_side

#: Disagreements shown in a terminal; `--json` has them all.
_SHOWN = 10


def compare(
    first: Annotated[
        str, typer.Argument(help="A bundle's name or fingerprint: usually the one that serves.")
    ],
    second: Annotated[str, typer.Argument(help="Another bundle: usually the candidate.")],
    since: Annotated[
        datetime | None, moment("Cases opened at or after this time, UTC.", usual=f"{USUAL_DAYS} days ago")
    ] = None,
    until: Annotated[datetime | None, moment("Cases opened before this time, UTC.")] = None,
    json_: OneObject = False,
) -> None:
    """Compare two bundles on the cases that both analysed. It counts and recommends nothing."""
    now = datetime.now(UTC)
    with open_session() as session:
        seen = side_by_side(
            session,
            find_bundle(session, first),
            find_bundle(session, second),
            since=in_utc(since) or now - timedelta(days=USUAL_DAYS),
            until=in_utc(until) or now,
        )
    if json_:
        print_json(comparison_json(seen))
    else:
        _print(seen)


# --- for machines


def comparison_json(seen: SideBySide) -> dict[str, Any]:
    """All of it: shares with their counts, numbers with their 95 % intervals. Absent numbers are null."""
    found = seen.comparison
    return {
        "first": _bundle_json(seen.first),
        "second": _bundle_json(seen.second),
        "since": seen.since.isoformat(),
        "until": seen.until.isoformat(),
        "cut": seen.cut,
        "pictures": found.n,
        "agreement": _share_json(found.agreed),
        "labels": [
            {"first": first, "second": second, "pictures": n} for (first, second), n in found.table.items()
        ],
        "abstained": _shares_json(found.first_abstained, found.second_abstained),
        "score_shift": {
            "pictures": found.shift.n,
            "both_calibrated": found.shift.calibrated,
            "mean": _measure_json(found.shift.mean),
            "p05": _measure_json(found.shift.fifth),
            "p50": _measure_json(found.shift.median),
            "p95": _measure_json(found.shift.ninety_fifth),
        },
        "engine_seconds": {
            "first": _timing_json(found.speed.first),
            "second": _timing_json(found.speed.second),
            "ratio": _measure_json(found.speed.ratio),
            "ratio_of": found.speed.of,
        },
        "decided": {
            **_against_json(found.decided),
            "showed_first": found.showed_first,
            "showed_second": found.showed_second,
        },
        "blind": _against_json(found.blind),
        "disagreed": found.disagreed,
        "disagreements": [_disagreement_json(pair) for pair in found.disagreements],
    }


def _bundle_json(bundle: SeenBundle) -> dict[str, str]:
    return {"name": bundle.name, "fingerprint": bundle.fingerprint}


def _share_json(share: Share) -> dict[str, Any]:
    return {"share": share.share, "low": share.low, "high": share.high, **vars(share)}


def _shares_json(first: Share, second: Share) -> dict[str, Any]:
    return {"first": _share_json(first), "second": _share_json(second)}


def _measure_json(measure: Measure | None) -> dict[str, Any] | None:
    return None if measure is None else vars(measure)


def _timing_json(timing: Timing) -> dict[str, Any]:
    p50, p95 = _measure_json(timing.median), _measure_json(timing.ninety_fifth)
    return {"pictures": timing.n, "p50": p50, "p95": p95}


def _against_json(against: Against) -> dict[str, Any]:
    right = against.right
    return {
        "overturned": _shares_json(against.first_overturned, against.second_overturned),
        "both_said": right.n,
        "only_first_right": right.only_first,
        "only_second_right": right.only_second,
        "difference": _measure_json(right.difference),
        "mcnemar": {"mid_p": right.mid_p, "exact_p": right.exact_p},
    }


def _disagreement_json(pair: Pair) -> dict[str, Any]:
    return {
        "case": str(pair.case_id),
        "first": _said_json(pair.first),
        "second": _said_json(pair.second),
        "shift": pair.shift,
        "decided": pair.decided,
    }


def _said_json(said: BundleVerdict) -> dict[str, Any]:
    return {"label": said.label, "score": said.score, "calibrated": said.calibrated}


# --- for people


def _print(seen: SideBySide) -> None:
    console, found = Console(), seen.comparison
    newest = "the newest cases" if seen.cut else "cases"
    console.print(
        f"[bold]{escape(seen.first.name)}[/] and [bold]{escape(seen.second.name)}[/]: "
        f"{found.n:,} pictures that both analysed, of {newest} opened since {seen.since:%Y-%m-%d %H:%M} UTC",
        highlight=False,
    )
    if not found.n:
        console.print("Nothing to compare: try the second with a shadow, or `bonafide bundles rerun` it.")
        return
    for table in (_labels(seen), _numbers(seen), _people(seen)):
        console.print(table)
    if found.disagreements:
        console.print(_disagreements(seen))


def _labels(seen: SideBySide) -> Table:
    table = Table(
        f"{escape(seen.first.name)} ↓  {escape(seen.second.name)} →", *(_words(label) for label in Label)
    )
    for first in Label:
        table.add_row(_words(first), *(str(seen.comparison.table[first, second]) for second in Label))
    return table


def _numbers(seen: SideBySide) -> Table:
    found = seen.comparison
    shift, speed = found.shift, found.speed
    scales = "" if shift.calibrated == shift.n else f", {shift.n - shift.calibrated:,} not calibrated"
    table = Table("", "value", "95 % interval", "of")
    for words, share in (
        ("the same label", found.agreed),
        (f"{seen.first.name} cannot tell", found.first_abstained),
        (f"{seen.second.name} cannot tell", found.second_abstained),
    ):
        table.add_row(escape(words), *_share_cells(share))
    for words, measure, of in (
        ("score shift, mean", shift.mean, f"{shift.n:,}{scales}"),
        ("score shift, 5 % below", shift.fifth, f"{shift.n:,}"),
        ("score shift, median", shift.median, f"{shift.n:,}"),
        ("score shift, 95 % below", shift.ninety_fifth, f"{shift.n:,}"),
        (f"{seen.first.name}: seconds, median", speed.first.median, f"{speed.first.n:,}"),
        (f"{seen.first.name}: seconds, 95 % below", speed.first.ninety_fifth, f"{speed.first.n:,}"),
        (f"{seen.second.name}: seconds, median", speed.second.median, f"{speed.second.n:,}"),
        (f"{seen.second.name}: seconds, 95 % below", speed.second.ninety_fifth, f"{speed.second.n:,}"),
        ("how often longer it takes, median", speed.ratio, f"{speed.of:,}"),
    ):
        table.add_row(escape(words), *_measure_cells(measure), of)
    return table


def _people(seen: SideBySide) -> Table:
    found = seen.comparison
    table = Table("held against people", "decided", "judged before a verdict was shown")
    sides = (found.decided, found.blind)
    first, second = escape(seen.first.name), escape(seen.second.name)
    rows: list[tuple[str, Callable[[Against], str]]] = [
        (f"{first} overturned", lambda side: _share_line(side.first_overturned)),
        (f"{second} overturned", lambda side: _share_line(side.second_overturned)),
        ("both say something", lambda side: f"{side.right.n:,}"),
        (f"only {first} right", lambda side: f"{side.right.only_first:,}"),
        (f"only {second} right", lambda side: f"{side.right.only_second:,}"),
        ("right more often, the second", _difference_line),
        ("McNemar's p (mid-p; exact)", _p_line),
    ]
    for words, line in rows:
        table.add_row(words, *map(line, sides))
    table.add_row("saw the first's, the second's verdict", _showed(found), "neither")
    return table


def _disagreements(seen: SideBySide) -> Table:
    found = seen.comparison
    shown = found.disagreements[:_SHOWN]
    table = Table(
        Column("case", no_wrap=True), escape(seen.first.name), escape(seen.second.name), "shift", "decided"
    )
    for pair in shown:
        table.add_row(
            str(pair.case_id),
            _said(pair.first),
            _said(pair.second),
            "" if pair.shift is None else f"{pair.shift:+.2f}",
            "" if pair.decided is None else pair.decided.replace("_", " "),
        )
    table.caption = f"{len(shown)} of {found.disagreed:,} with two labels, the largest shift first"
    return table


def _words(label: Label) -> str:
    return label.replace("_", " ")


def _said(said: BundleVerdict) -> str:
    return _words(said.label) + ("" if said.score is None else f" {said.score:.2f}")


def _share_cells(share: Share) -> tuple[str, str, str]:
    if share.share is None or share.low is None or share.high is None:
        return "–", "", "0"
    return f"{share.share:.1%}", f"{share.low:.1%} to {share.high:.1%}", f"{share.of:,}"


def _share_line(share: Share) -> str:
    value, interval, _ = _share_cells(share)
    return f"{value} ({share.count:,} of {share.of:,}; {interval})" if share.of else value


def _measure_cells(measure: Measure | None) -> tuple[str, str]:
    if measure is None:
        return "–", ""
    if measure.low is None and measure.high is None:
        return f"{measure.value:.3f}", "too few"
    return f"{measure.value:.3f}", f"{_end(measure.low)} to {_end(measure.high)}"


def _end(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"


def _difference_line(side: Against) -> str:
    value, interval = _measure_cells(side.right.difference)
    return f"{value} ({interval})" if interval else value


def _p_line(side: Against) -> str:
    mid, exact = side.right.mid_p, side.right.exact_p
    return "–" if mid is None or exact is None else f"{mid:.4f}; {exact:.4f}"


def _showed(found: Comparison) -> str:
    return f"{found.showed_first:,}, {found.showed_second:,}"
