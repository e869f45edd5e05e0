"""How the review goes, for leads: how much, how fast, how well people and model agree. Every share with its interval.

People are not ranked: nothing here is counted by reviewer.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from moderation.analysis import Abstain, Label, Technique
from moderation.database.connection import Database
from moderation.database.insight import Period
from moderation.errors import RequestRefused
from moderation.intervals import Named, Share
from moderation.people import Act, Person, require

#: Days looked back on unless somebody asks for more, and the most that are counted at once.
USUAL_DAYS = 30
DAYS_AT_MOST = 366

#: Bands of the score, of equal width.
BANDS = 10


@dataclass(frozen=True)
class Spread:
    """Seconds of `n` things. None when there are none."""

    n: int
    median: float | None
    #: Nine of ten took no longer.
    ninetieth: float | None


@dataclass(frozen=True)
class Day:
    day: date  # UTC
    opened: int
    #: Became ready for a person, with a verdict or without.
    made_ready: int
    #: Without those taken back.
    decided: int
    appealed: int


@dataclass(frozen=True)
class Backlog:
    """Cases that are ready now."""

    age: Spread
    oldest: float | None  # seconds


@dataclass(frozen=True)
class Reliance:
    """What showing the verdict does to people: from cases that were judged before it was shown."""

    #: Of first judgements that differed from the verdict: changed to it.
    switched: Share
    #: Of first judgements that were the verdict: kept.
    kept: Share
    #: Of verdicts that another person later held wrong: followed all the same. Over-reliance; low is good.
    followed_when_wrong: Share
    #: Of verdicts that another person later held right: followed. High is good.
    followed_when_right: Share


@dataclass(frozen=True)
class Band:
    """Calibrated scores from `low` to below `high`, against what people decided."""

    low: float
    high: float
    mean_score: float
    #: Decided to be deepfakes. Whoever decided had mostly seen the score.
    decided: Share
    #: Judged to be deepfakes before the score was seen: the honest half of it.
    blind: Share

    @property
    def drifted(self) -> bool:
        """Whether the mean score lies outside the interval of what was judged blind, if there is enough of that."""
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
    #: From ready to the first decision.
    wait: Spread
    #: From claim to decision.
    work: Spread
    #: Decisions that are what the verdict said, of those about a case whose verdict said something.
    agreement: Share
    #: The same by what the verdict said: a technique, "deepfake" without one, "bona fide".
    agreement_by_technique: tuple[Named, ...]
    agreement_by_bundle: tuple[Named, ...]
    #: Of deepfakes that both saw and where the reviewer named a technique: the same one.
    same_technique: Share
    #: Of appeals answered: with another outcome.
    overturned: Share
    #: Of second reviews: with the outcome of the first.
    second_agreement: Share
    reliance: Reliance
    #: Analyses that ended without a verdict, of all, in total and by reason.
    abstained: Share
    abstained_by_reason: tuple[Named, ...]
    #: Images that could not be analysed, by reason, of all that became ready.
    refused_by_reason: tuple[Named, ...]
    bands: tuple[Band, ...]
    #: Artifacts that reviewers see too, of those they said agree or disagree to, by region.
    artifacts_by_region: tuple[Named, ...]


class Insights:
    """Reads how the review goes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, person: Person, *, now: datetime, days: int = USUAL_DAYS) -> Insight:
        """The last so many days. Raise NotAllowed, or RequestRefused for more days than are counted at once."""
        require(person, Act.SEE_INSIGHT)
        if not 1 <= days <= DAYS_AT_MOST:
            raise RequestRefused(f"from 1 to {DAYS_AT_MOST} days are looked at")
        return self.between(now - timedelta(days=days), now)

    def between(self, since: datetime, until: datetime) -> Insight:
        """One period: `since` to before `until`."""
        with self._database.transaction() as session:
            return _read(Period(session, since, until), since, until)


def _read(period: Period, since: datetime, until: datetime) -> Insight:
    agreement = period.agreement()
    days = tuple(Day(*row) for row in period.days())
    ages = period.ages()
    appeals, second = period.appeals(), period.second_reviews()
    switches, reliance = period.switches(), period.reliance()
    abstained = {row.abstain: row.n for row in period.abstained()}
    analysed = sum(abstained.values())
    reasons = {code: n for code, n in abstained.items() if code is not None}
    made_ready = sum(day.made_ready for day in days)
    return Insight(
        since=since,
        until=until,
        days=days,
        backlog=Backlog(_spread(ages), None if ages.oldest is None else float(ages.oldest)),
        wait=_spread(period.waits()),
        work=_spread(period.work()),
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
        refused_by_reason=_by_frequency({row.code: row.n for row in period.refused()}, made_ready),
        bands=tuple(
            Band(
                row.band / BANDS,
                (row.band + 1) / BANDS,
                row.mean_score,
                Share(row.deepfakes, row.n),
                Share(row.blind_deepfakes, row.blind),
            )
            for row in period.bands(BANDS)
        ),
        artifacts_by_region=tuple(
            Named(row.region.replace("_", " "), Share(row.agreed, row.n)) for row in period.answers() if row.n
        ),
    )


def _spread(row: Any) -> Spread:
    median, ninetieth = (None, None) if row.at is None else map(float, row.at)
    return Spread(row.n, median, ninetieth)


def _agreed(rows: Iterable[Any]) -> Share:
    chosen = list(rows)
    return Share(sum(row.agreed for row in chosen), sum(row.n for row in chosen))


def _same_technique(rows: Iterable[Any]) -> Share:
    chosen = [row for row in rows if row.verdict_technique is not None]
    return Share(sum(row.same_technique for row in chosen), sum(row.named for row in chosen))


def _grouped(rows: Iterable[Any], name: Callable[[Any], str]) -> tuple[Named, ...]:
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(name(row), []).append(row)
    return tuple(Named(group, _agreed(chosen)) for group, chosen in sorted(groups.items()))


def _said(row: Any) -> str:
    if row.verdict_technique is not None:
        return Technique(row.verdict_technique).words
    return Label(row.verdict).replace("_", " ")


def _by_frequency(counts: Mapping[str, int], of: int) -> tuple[Named, ...]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Named(name, Share(n, of)) for name, n in ordered)
