"""How the review goes, for leads: how much, how fast, how well people and model agree. Every share has an interval.

People are not ranked: nothing is counted by reviewer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Row, TextClause
from sqlalchemy.orm import Session

from moderation.analysis import Abstain, Label, Technique
from moderation.database.connection import Database
from moderation.database.ids import first_id_at
from moderation.errors import RequestRefused
from moderation.intervals import Named, Share
from moderation.people import Act, Person, require
from moderation.reports import insight_rows as queries

#: Days that are counted by default, and at most.
USUAL_DAYS = 30
DAYS_AT_MOST = 366

#: Bands of the score, of equal width.
BANDS = 10


@dataclass(frozen=True)
class Spread:
    """Seconds of `n` things. None without things."""

    n: int
    median: float | None
    #: Nine of ten were not longer.
    ninetieth: float | None


@dataclass(frozen=True)
class Day:
    day: date  # UTC
    opened: int
    #: Became ready for a person, with a verdict or without.
    made_ready: int
    #: Without undone decisions.
    decided: int
    appealed: int


@dataclass(frozen=True)
class Backlog:
    """Cases that are ready now."""

    age: Spread
    oldest: float | None  # seconds


@dataclass(frozen=True)
class Reliance:
    """How the verdict influences people, from cases that they judged before they saw it."""

    #: Share of first judgements against the verdict that changed to it.
    switched: Share
    #: Share of first judgements equal to the verdict that stayed.
    kept: Share
    #: Of verdicts that another person later called wrong: the share that was followed. Over-reliance; low is good.
    followed_when_wrong: Share
    #: Of verdicts that another person later called right: the share that was followed. High is good.
    followed_when_right: Share


@dataclass(frozen=True)
class Band:
    """Calibrated scores from `low` to below `high`, against what people decided."""

    low: float
    high: float
    mean_score: float
    #: Share decided as deepfakes. Most reviewers had seen the score.
    decided: Share
    #: Share judged as deepfakes before the score was seen: the unbiased half.
    blind: Share

    @property
    def drifted(self) -> bool:
        """Whether the mean score lies outside the interval of the blind judgements, if there are enough."""
        if self.blind.of < 30 or self.blind.low is None or self.blind.high is None:
            return False
        return not self.blind.low <= self.mean_score <= self.blind.high


@dataclass(frozen=True)
class Insight:
    """One period of review."""

    since: datetime
    until: datetime
    days: tuple[Day, ...]
    backlog: Backlog
    #: Time from ready to the first decision.
    wait: Spread
    #: Time from claim to decision.
    work: Spread
    #: Share of decisions that agree with the verdict, where the verdict was definite.
    agreement: Share
    #: The same by verdict: a technique, "deepfake" without one, "bona fide".
    agreement_by_technique: tuple[Named, ...]
    agreement_by_bundle: tuple[Named, ...]
    #: Share with the same technique, of deepfakes by both where the reviewer named one.
    same_technique: Share
    #: Share of answered appeals with another outcome.
    overturned: Share
    #: Share of second reviews with the first one's outcome.
    second_agreement: Share
    reliance: Reliance
    #: Share of analyses without a verdict, in total and by reason.
    abstained: Share
    abstained_by_reason: tuple[Named, ...]
    #: Share of ready cases whose image could not be analysed, by reason.
    refused_by_reason: tuple[Named, ...]
    bands: tuple[Band, ...]
    #: Share of artifacts that reviewers see too, of those with a yes or no, by region.
    artifacts_by_region: tuple[Named, ...]


class Insights:
    """Reads how the review goes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, person: Person, *, now: datetime, days: int = USUAL_DAYS) -> Insight:
        """The last so many days. Raise NotAllowed, or RequestRefused for too many days."""
        require(person, Act.SEE_INSIGHT)
        if not 1 <= days <= DAYS_AT_MOST:
            raise RequestRefused(f"from 1 to {DAYS_AT_MOST} days can be shown")
        with self._database.transaction() as session:
            return _read(session, now - timedelta(days=days), now)


def _read(session: Session, since: datetime, until: datetime) -> Insight:
    """One period: `since` to before `until`."""
    ids = {"first": first_id_at(since), "last": first_id_at(until)}
    given = {"since": since, "until": until, "bands": BANDS, **ids}

    def rows(query: TextClause) -> Sequence[Row[Any]]:
        return session.execute(query, given).all()

    agreement = rows(queries.AGREEMENT)
    days = tuple(Day(*row) for row in rows(queries.DAYS))
    (ages,), (waits,), (work,) = rows(queries.AGES), rows(queries.WAITS), rows(queries.WORK)
    (appeals,), (second,) = rows(queries.APPEALS), rows(queries.SECOND)
    (switches,), (reliance,) = rows(queries.SWITCHES), rows(queries.RELIANCE)
    abstained = {row.abstain: row.n for row in rows(queries.ABSTAINED)}
    analysed = sum(abstained.values())
    reasons = {code: n for code, n in abstained.items() if code is not None}
    made_ready = sum(day.made_ready for day in days)
    return Insight(
        since=since,
        until=until,
        days=days,
        backlog=Backlog(_spread(ages), None if ages.oldest is None else float(ages.oldest)),
        wait=_spread(waits),
        work=_spread(work),
        agreement=_agreed(agreement),
        agreement_by_technique=_grouped(agreement, _said),
        agreement_by_bundle=_grouped(agreement, lambda row: row.bundle),
        same_technique=_same_technique(agreement),
        overturned=Share(appeals.overturned, appeals.n),
        second_agreement=Share(second.agreed, second.n),
        reliance=Reliance(
            switched=Share(switches.switched, switches.differed),
            kept=Share(switches.kept, switches.same),
            followed_when_wrong=Share(reliance.followed_wrong, reliance.wrong),
            followed_when_right=Share(reliance.followed_correct, reliance.correct),
        ),
        abstained=Share(sum(reasons.values()), analysed),
        abstained_by_reason=_by_frequency({Abstain(code).words: n for code, n in reasons.items()}, analysed),
        refused_by_reason=_by_frequency({row.code: row.n for row in rows(queries.REFUSED)}, made_ready),
        bands=tuple(
            Band(
                row.band / BANDS,
                (row.band + 1) / BANDS,
                row.mean_score,
                Share(row.deepfakes, row.n),
                Share(row.blind_deepfakes, row.blind),
            )
            for row in rows(queries.BANDS)
        ),
        artifacts_by_region=tuple(
            Named(row.region.replace("_", " "), Share(row.agreed, row.n))
            for row in rows(queries.ANSWERS)
            if row.n
        ),
    )


def _spread(row: Any) -> Spread:
    median, ninetieth = (None, None) if row.at is None else map(float, row.at)
    return Spread(row.n, median, ninetieth)


def _agreed(rows: Sequence[Any]) -> Share:
    return Share(sum(row.agreed for row in rows), sum(row.n for row in rows))


def _same_technique(rows: Iterable[Any]) -> Share:
    named = [row for row in rows if row.verdict_technique is not None]
    return Share(sum(row.same_technique for row in named), sum(row.named for row in named))


def _grouped(rows: Iterable[Any], name: Callable[[Any], str]) -> tuple[Named, ...]:
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return tuple(Named(group, _agreed(members)) for group, members in sorted(groups.items()))


def _said(row: Any) -> str:
    if row.verdict_technique is not None:
        return Technique(row.verdict_technique).words
    return Label(row.verdict).replace("_", " ")


def _by_frequency(counts: Mapping[str, int], of: int) -> tuple[Named, ...]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Named(name, Share(n, of)) for name, n in ordered)
