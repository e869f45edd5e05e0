"""Rolling out a model: which of the bundles that a worker holds analyses which case. Arithmetic, and nothing else.

A worker may hold two bundles, its own and a second one. Who serves, and which is on trial, is one row in Postgres
(`moderation.database.rollouts`), so that promoting a bundle and rolling back restart nothing.
"""

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from moderation.cases import place_of
from moderation.errors import RolloutRefused


class Action(enum.StrEnum):
    """What an operator did; also the kind of the row that records it."""

    #: A candidate is given a share of the new cases, or the share changes.
    TRY = "try"
    #: The candidate serves from now on.
    PROMOTE = "promote"
    #: What served before the last promotion serves again.
    ROLLBACK = "rollback"
    #: No candidate any more.
    STOP = "stop"


@dataclass(frozen=True)
class Rollout:
    """What is in force. Bundles are named by their fingerprints."""

    #: None: each worker's own bundle serves.
    serving: str | None = None
    #: The bundle on trial. None: there is none, and the next two are 0.
    candidate: str | None = None
    #: Part of the new cases whose own analysis the candidate makes, in [0, 1]. Reviewers see it.
    share: float = 0.0
    #: Part of the new cases that the candidate analyses as well, in [0, 1]. Not shown.
    shadow: float = 0.0


def main_of(rollout: Rollout, loaded: Collection[str], own: str) -> str:
    """The bundle that serves in a worker. One that does not hold what should serve goes on with its own."""
    return rollout.serving if rollout.serving is not None and rollout.serving in loaded else own


def chosen(rollout: Rollout, case_id: UUID, attempt: int, loaded: Collection[str], own: str) -> str:
    """The bundle that makes this case's own analysis in a worker that holds `loaded` and has `own`.

    Only the first attempt, `attempt` 1, goes to the candidate: whatever went wrong, the next one is made by the bundle
    that serves.
    """
    candidate = rollout.candidate
    if candidate is None or candidate not in loaded or attempt != 1:
        return main_of(rollout, loaded, own)
    in_share = place_of(case_id, f"share:{candidate}") < rollout.share
    return candidate if in_share else main_of(rollout, loaded, own)


def shadowed(rollout: Rollout, case_id: UUID) -> bool:
    """Whether the candidate analyses this case as well. Independent of whether the case is in its share."""
    return rollout.candidate is not None and place_of(case_id, f"shadow:{rollout.candidate}") < rollout.shadow


def tried(now: Rollout, candidate: str, *, share: float, shadow: float) -> Rollout:
    """`candidate` on trial beside what serves. Raise RolloutRefused when it serves already, or for no such share."""
    if candidate == now.serving:
        raise RolloutRefused("this bundle serves already")
    if not (0 <= share <= 1 and 0 <= shadow <= 1):
        raise RolloutRefused("a share is a number from 0 to 1")
    return Rollout(now.serving, candidate, share, shadow)


def promoted(now: Rollout) -> Rollout:
    """The candidate serves. Raise RolloutRefused when there is none."""
    if now.candidate is None:
        raise RolloutRefused("no bundle is on trial: `bonafide bundles try` one first")
    return Rollout(serving=now.candidate)


def stopped(now: Rollout) -> Rollout:
    """No candidate. Raise RolloutRefused when there is none."""
    if now.candidate is None:
        raise RolloutRefused("no bundle is on trial")
    return Rollout(serving=now.serving)


def rolled_back(log: Sequence[tuple[Action, Rollout]]) -> Rollout:
    """What served before the last promotion that still stands, with no candidate. `log` has the oldest first.

    Rolling back twice takes two promotions back. Raise RolloutRefused when no promotion stands.
    """
    served: list[str | None] = [None]
    for action, rollout in log:
        if action is Action.PROMOTE:
            served.append(rollout.serving)
        elif action is Action.ROLLBACK:
            served.pop()
    if len(served) == 1:
        raise RolloutRefused("no promotion stands: each worker serves with its own bundle")
    return Rollout(serving=served[-2])
