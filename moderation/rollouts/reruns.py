"""Reruns: cases that are analysed again, in the shadow to compare two bundles, or anew to show another's analysis.

As with cases, the row is the truth and the message a hint. The sweeper publishes reruns when the queue has room and a
worker holds the bundle. They come after all other work. The case does not change until the analysis is there.
"""

from collections.abc import Iterator
from uuid import UUID

from sqlalchemy.orm import Session

from moderation.database.connection import Database
from moderation.database.work import RERUNS, stale_seconds
from moderation.rollouts import rerun_rows as rows
from moderation.rollouts.rerun_rows import RerunFilter
from moderation.rollouts.rollout_rows import held_by_live_workers
from moderation.settings import Settings

#: Reruns asked for in one transaction, so that it stays short.
PAGE = 1000


def ask_for_reruns(
    database: Database,
    fingerprint: str,
    wanted: RerunFilter,
    *,
    shadow: bool,
    asked_by: str,
    at_most: int | None = None,
    dry_run: bool = False,
) -> Iterator[tuple[int, int]]:
    """Ask for these cases to be analysed by this pipeline, a page at a time.

    Yield, after each page, how many cases fitted so far and how many reruns are new. `dry_run` asks for nothing. After
    an interruption simply call it again.
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
    """End reruns that were tried too often, or that no worker could take for a week; return how many.

    A line longer than a week is not given up while a worker works on it. Raise DatabaseUnavailable.
    """
    with database.transaction() as session:
        return rows.give_up_page(session, held_by_live_workers(session), stale_after=stale_seconds(settings))


def due_reruns(session: Session, settings: Settings, limit: int) -> list[UUID]:
    """The oldest reruns to publish that a live worker could take. They are marked as published."""
    if limit == 0:
        return []
    again_after, stale_after = settings.publish_again_seconds, stale_seconds(settings)
    ids: list[UUID] = []
    for fingerprint in held_by_live_workers(session):
        page = rows.due_of(fingerprint, limit=limit, again_after=again_after, stale_after=stale_after)
        ids += session.scalars(page)
    oldest = sorted(ids)[:limit]
    RERUNS.mark_published(session, oldest)
    return oldest
