"""The workers' bundles, and two of them side by side, for leads. They do not roll out, but say what they see."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from fastapi.responses import Response

from moderation.database.console import judged_by, stands_of
from moderation.decisions import verdict_is_hidden
from moderation.intervals import Named, Share
from moderation.rollouts.comparison import Pair
from moderation.rollouts.standings import DAYS_AT_MOST, USUAL_DAYS, SideBySide, Standings
from moderation.web.console import charts, words
from moderation.web.console.access import VisitorDep
from moderation.web.console.pages import PageRoute, Visitor, page
from moderation.web.services import Services, ServicesDep

router = APIRouter(route_class=PageRoute, include_in_schema=False)

#: Periods to choose from, in days, with their words.
PERIODS = ((1, "1 day"), (7, "7 days"), (30, "30 days"), (90, "90 days"))

_LABEL_WORDS = dict(words.LABELS)


@dataclass(frozen=True)
class LabelCell:
    """Pictures with one label from the first bundle and one from the second."""

    share: Share
    same: bool


@dataclass(frozen=True)
class LabelRow:
    """A label of the first bundle, and the counts of the second's labels for the same pictures."""

    words: str
    cells: tuple[LabelCell, ...]


@router.get("/bundles")
def show_bundles(
    services: ServicesDep,
    visitor: VisitorDep,
    first: Annotated[str | None, Query(max_length=200)] = None,
    second: Annotated[str | None, Query(max_length=200)] = None,
    days: Annotated[int, Query(ge=1, le=DAYS_AT_MOST)] = USUAL_DAYS,
) -> Response:
    now = datetime.now(UTC)
    standings = services.bundles.standings(visitor.person, now=now)
    compared = _compared(standings, first, second)
    seen = None
    if compared is not None and compared[0] != compared[1]:
        seen = services.bundles.compare(visitor.person, *compared, now=now, days=days)
    disagreements = [] if seen is None else _shown(services, visitor, seen.comparison.disagreements)
    return page(
        services,
        visitor,
        "bundles.html",
        section="/bundles",
        standings=standings,
        compared=compared,
        days=days,
        periods=PERIODS,
        seen=seen,
        names=None if seen is None else _names(seen),
        labels=[said for _, said in words.LABELS],
        rows=[] if seen is None else _rows(seen),
        panels=[] if seen is None else _panels(seen),
        whiskers=charts.whiskers,
        shifts=None if seen is None else charts.shifts(seen.comparison.shift.bars),
        bounds=charts.shift_bounds,
        disagreements=disagreements,
        label_words=_LABEL_WORDS,
        outcome_words=words.OUTCOME_WORDS,
    )


def _compared(standings: Standings, first: str | None, second: str | None) -> tuple[str, str] | None:
    """The pair to compare: the chosen one, else the serving bundle with the candidate, else with the next bundle.

    None while there are fewer than two bundles.
    """
    known = [standing.bundle.fingerprint for standing in standings.bundles]
    if len(known) < 2:
        return None
    first = first or (standings.serving.fingerprint if standings.serving else known[0])
    others = [fingerprint for fingerprint in known if fingerprint != first]
    candidate = standings.candidate.fingerprint if standings.candidate else None
    return first, second or (candidate if candidate in others else None) or others[0]


def _names(seen: SideBySide) -> tuple[str, str]:
    """The names of the two. If they share a name, with the beginning of their fingerprints."""
    one, other = seen.first, seen.second
    if one.name != other.name:
        return one.name, other.name
    return f"{one.name} · {one.fingerprint[:8]}", f"{other.name} · {other.fingerprint[:8]}"


def _rows(seen: SideBySide) -> list[LabelRow]:
    found = seen.comparison
    return [
        LabelRow(
            said,
            tuple(
                LabelCell(Share(found.table[first, second], found.n), first is second)
                for second, _ in words.LABELS
            ),
        )
        for first, said in words.LABELS
    ]


def _panels(seen: SideBySide) -> list[tuple[str, str, tuple[Named, ...]]]:
    found = seen.comparison
    first, second = _names(seen)
    return [
        (
            "Cannot tell",
            "Of all these pictures.",
            (Named(first, found.first_abstained), Named(second, found.second_abstained)),
        ),
        (
            "Overturned",
            "Of verdicts that said something, those that the standing decision contradicts.",
            (Named(first, found.decided.first_overturned), Named(second, found.decided.second_overturned)),
        ),
        (
            "Contradicted blind",
            "The same by what people said before a verdict was shown to them.",
            (Named(first, found.blind.first_overturned), Named(second, found.blind.second_overturned)),
        ),
    ]


def _shown(services: Services, visitor: Visitor, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose verdicts this person may see. Nobody may read here the verdict of a case they judge blind."""
    case_ids = [pair.case_id for pair in pairs]
    with services.database.transaction() as session:
        judged = judged_by(session, visitor.person.id, case_ids)
        stands = stands_of(session, case_ids)

    def hidden(case_id: UUID) -> bool:
        return verdict_is_hidden(
            case_id,
            *stands[case_id],
            has_verdict=True,
            judged=case_id in judged,
            share=services.settings.blind_first_share,
        )

    return [pair for pair in pairs if not hidden(pair.case_id)]
