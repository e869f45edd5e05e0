"""Reruns: cases that are analysed once more, in the shadow to compare two bundles, or anew to show what another says.

As with cases, the row is the truth and the message a bell. The sweeper rings, as far as there is room on the queue and
a worker that holds the bundle; they stand behind everything else. The case stays as it is until there is an analysis.
"""

from collections.abc import Iterator

from sqlalchemy.orm import Session

from moderation.database import reruns as rows
from moderation.database.connection import Database
from moderation.database.reruns import Wanted
from moderation.database.rollouts import live_workers
from moderation.dispatch import RERUN_QUEUE, Doorbell
from moderation.errors import BrokerUnavailable
from moderation.settings import Settings

#: How often a rerun is taken by a worker that does not come back before it is given up.
ATTEMPTS = 3
#: Reruns asked for, and rung for, at once: a page, so that one transaction stays short.
PAGE = 1000


def rerun_seconds(settings: Settings) -> float:
    """After so long without an end a worker that took a rerun counts as gone."""
    return 2 * settings.engine_timeout_seconds


def ask_for_reruns(
    database: Database,
    fingerprint: str,
    wanted: Wanted,
    *,
    shadow: bool,
    asked_by: str,
    at_most: int | None = None,
    dry_run: bool = False,
) -> Iterator[tuple[int, int]]:
    """Ask for these cases to be analysed by this pipeline, a page at a time.

    Gives, after each page, how many cases fitted so far and how many reruns are new. With `dry_run` nothing is asked.
    Broken off half way it can simply be asked again.
    """
    after, found, new = None, 0, 0
    while at_most is None or found < at_most:
        limit = PAGE if at_most is None else min(PAGE, at_most - found)
        with database.transaction() as session:
            ids = rows.cases_to_rerun(session, fingerprint, wanted, shadow=shadow, after=after, limit=limit)
            if not dry_run:
                new += rows.insert_reruns(session, fingerprint, ids, shadow=shadow, asked_by=asked_by)
        found += len(ids)
        yield found, new
        if len(ids) < limit:
            return
        after = ids[-1]


def give_up_reruns(database: Database, settings: Settings) -> int:
    """End reruns tried too often, and those that no worker could take for a week; return how many. For the sweeper.

    A line that is longer than a week is not given up while a worker is at it. Raise DatabaseUnavailable.
    """
    with database.transaction() as session:
        return rows.give_up_reruns(
            session, _held(session), attempts_at_most=ATTEMPTS, stale_after=rerun_seconds(settings)
        )


def ring_reruns(database: Database, doorbell: Doorbell, settings: Settings) -> int:
    """Ring for reruns that wait and that a live worker could take; return for how many.

    For the sweeper, at every look. Raise DatabaseUnavailable.
    """
    try:
        queued = doorbell.depth(RERUN_QUEUE)
    except BrokerUnavailable:
        queued = settings.bells_at_most
    room = min(PAGE, settings.bells_at_most - queued)
    if room <= 0:
        return 0
    with database.transaction() as session:
        ids = rows.reruns_to_ring(
            session,
            _held(session),
            limit=room,
            attempts_at_most=ATTEMPTS,
            ring_again_seconds=settings.ring_again_seconds,
            stale_after=rerun_seconds(settings),
        )
    # Of what was rung for, most is still on the queue, behind others: only a bell that was lost is rung again.
    silent = doorbell.without_bell(ids, RERUN_QUEUE)
    rung = doorbell.ring_reruns(silent) if silent else 0
    if rung < len(silent):
        with database.transaction() as session:
            rows.mark_reruns_unrung(session, silent[rung:])
    return rung


def _held(session: Session) -> set[str]:
    """The pipelines that live workers hold, by fingerprint."""
    return {fingerprint for worker in live_workers(session) for fingerprint in worker.holds}
