"""The bundles of the workers, for leads: which serves, which is on trial, and two of them side by side.

Operators try and promote them: `bonafide bundles`.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from moderation.database.connection import Database
from moderation.database.operations import answer_within
from moderation.errors import RequestRefused, RolloutRefused
from moderation.people import Act, Person, require
from moderation.rollout import Rollout
from moderation.rollouts.comparison import Comparison, compare
from moderation.rollouts.comparison_rows import PAIRS_AT_MOST, analyses_by_fingerprint, read_pairs
from moderation.rollouts.rollout_rows import LiveWorker, SeenBundle, in_force, list_bundles, live_workers

#: The candidate is watched on so many newest cases of a day: enough to see a change, and quick to read.
WATCHED_CASES = 2000
#: Seconds for which a comparison is used again, and seconds that a new one may take.
WATCHED_FOR, WATCHED_WITHIN = 60.0, 3.0

#: Days of opened cases that are compared by default, and at most.
USUAL_DAYS = 7
DAYS_AT_MOST = 366


@dataclass(frozen=True)
class Standing:
    """The state of one bundle."""

    bundle: SeenBundle
    #: Live workers in which it serves, and live workers that hold it.
    serving: int
    holding: int
    on_trial: bool
    #: Why workers do not use it, each reason once.
    stopped: tuple[str, ...]
    #: Analyses of the last day, also those in the shadow.
    analyses: int


@dataclass(frozen=True)
class Standings:
    rollout: Rollout
    #: Live workers, and those that have read the current rollout.
    workers: int
    obeying: int
    #: The serving bundle first, then the candidate, then the latest seen.
    bundles: tuple[Standing, ...]

    @property
    def serving(self) -> SeenBundle | None:
        """The bundle that serves in most workers. None while no worker is alive."""
        first = max(self.bundles, key=lambda standing: standing.serving, default=None)
        return first.bundle if first is not None and first.serving else None

    @property
    def candidate(self) -> SeenBundle | None:
        return next((standing.bundle for standing in self.bundles if standing.on_trial), None)


@dataclass(frozen=True)
class SideBySide:
    """Two bundles on the cases opened from `since` to `until`."""

    first: SeenBundle
    second: SeenBundle
    since: datetime
    until: datetime
    #: True when there were too many cases: these are the newest.
    cut: bool
    comparison: Comparison


class Bundles:
    """Reads the state of bundles and compares them, for people who may see insight."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def standings(self, person: Person, *, now: datetime) -> Standings:
        """The state of all bundles. Raise NotAllowed."""
        require(person, Act.SEE_INSIGHT)
        with self._database.transaction() as session:
            return read_standings(session, now=now)

    def compare(
        self, person: Person, first: str, second: str, *, now: datetime, days: int = USUAL_DAYS
    ) -> SideBySide:
        """Compare two bundles, named by their fingerprints, on the cases of so many days.

        Raise NotAllowed, RolloutRefused for a bundle that no worker ever had, RequestRefused for too many days.
        """
        require(person, Act.SEE_INSIGHT)
        if not 1 <= days <= DAYS_AT_MOST:
            raise RequestRefused(f"from 1 to {DAYS_AT_MOST} days can be compared")
        with self._database.transaction() as session:
            seen = {bundle.fingerprint: bundle for bundle in list_bundles(session)}
            if first not in seen or second not in seen:
                raise RolloutRefused("no worker was ever started with such a bundle")
            return side_by_side(
                session, seen[first], seen[second], since=now - timedelta(days=days), until=now
            )


def read_standings(session: Session, *, now: datetime) -> Standings:
    """The state of all bundles."""
    rollout, workers = in_force(session), live_workers(session)
    made = analyses_by_fingerprint(session, since=now - timedelta(days=1), until=now)
    found = [
        _standing(bundle, rollout, workers, made.get(bundle.fingerprint, 0))
        for bundle in list_bundles(session)
    ]
    found.sort(key=lambda standing: (-standing.serving, not standing.on_trial))
    obeying = sum(worker.follows == rollout for worker in workers)
    return Standings(rollout, len(workers), obeying, tuple(found))


def _standing(bundle: SeenBundle, rollout: Rollout, workers: Sequence[LiveWorker], analyses: int) -> Standing:
    fingerprint = bundle.fingerprint
    return Standing(
        bundle=bundle,
        serving=sum(worker.serves == fingerprint for worker in workers),
        holding=sum(fingerprint in worker.holds for worker in workers),
        on_trial=rollout.candidate == fingerprint,
        stopped=tuple(
            sorted({worker.stopped[fingerprint] for worker in workers if fingerprint in worker.stopped})
        ),
        analyses=analyses,
    )


def side_by_side(
    session: Session,
    first: SeenBundle,
    second: SeenBundle,
    *,
    since: datetime,
    until: datetime,
    at_most: int = PAIRS_AT_MOST,
) -> SideBySide:
    """Compare two bundles. Raise RequestRefused when they are the same."""
    if first.fingerprint == second.fingerprint:
        raise RequestRefused("a bundle is compared with another one")
    pairs = read_pairs(
        session, first.fingerprint, second.fingerprint, since=since, until=until, at_most=at_most
    )
    return SideBySide(first, second, since, until, len(pairs) >= at_most, compare(pairs))


def watch_trial(session: Session, *, now: datetime) -> SideBySide | None:
    """Compare the serving bundle and the candidate on the newest cases of a day. None without a trial or a worker."""
    rollout = in_force(session)
    serving = Counter(worker.serves for worker in live_workers(session)).most_common(1)
    seen = {bundle.fingerprint: bundle for bundle in list_bundles(session)}
    first = seen.get(serving[0][0]) if serving else None
    second = None if rollout.candidate is None else seen.get(rollout.candidate)
    if first is None or second is None or first == second:
        return None
    since = now - timedelta(days=1)
    return side_by_side(session, first, second, since=since, until=now, at_most=WATCHED_CASES)


class TrialWatch:
    """The candidate, compared once a minute however often somebody asks. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._looked_at: datetime | None = None
        self._found: SideBySide | None = None

    def latest(self, *, now: datetime) -> SideBySide | None:
        """As `watch_trial`, at most a minute old. Raise DatabaseUnavailable; then there is none for a minute."""
        with self._lock:
            if self._looked_at is None or (now - self._looked_at).total_seconds() >= WATCHED_FOR:
                self._looked_at, self._found = now, None
                with self._database.transaction() as session:
                    answer_within(session, WATCHED_WITHIN)
                    self._found = watch_trial(session, now=now)
            return self._found
