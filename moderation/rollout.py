"""Rolling out a model: which bundle of a worker analyses which case. Only arithmetic.

A worker may hold two bundles, its own and a second one. One row in Postgres says which serves and which is on trial
(`moderation.rollouts.rollout_rows`), so that a promotion or a rollback restarts nothing.
"""

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from moderation.cases import place_of
from moderation.errors import RolloutRefused


class Action(enum.StrEnum):
    """What an operator did. It is also the kind of the row that records it."""

    #: A candidate gets a share of the new cases, or the share changes.
    TRY = "try"
    #: The candidate serves from now on.
    PROMOTE = "promote"
    #: The bundle before the last promotion serves again.
    ROLLBACK = "rollback"
    #: There is no candidate any more.
    STOP = "stop"


@dataclass(frozen=True)
class Rollout:
    """The current rollout. Bundles are named by their fingerprints."""

    #: None: each worker's own bundle serves.
    serving: str | None = None
    #: The bundle on trial. None: there is none, and both shares are 0.
    candidate: str | None = None
    #: Share of new cases, in [0, 1], that the candidate analyses in place of the serving bundle. Reviewers see it.
    share: float = 0.0
    #: Share of new cases, in [0, 1], that the candidate analyses as well. Reviewers do not see it.
    shadow: float = 0.0


def main_of(rollout: Rollout, loaded: Collection[str], own: str) -> str:
    """The bundle that serves in a worker. A worker without the serving bundle uses its own."""
    return rollout.serving if rollout.serving is not None and rollout.serving in loaded else own


def bundle_for(rollout: Rollout, case_id: UUID, attempt: int, loaded: Collection[str], own: str) -> str:
    """The bundle for this case's own analysis, in a worker that holds `loaded` and whose own bundle is `own`.

    Only attempt 1 goes to the candidate. After any failure the serving bundle takes over.
    """
    candidate = rollout.candidate
    if candidate is None or candidate not in loaded or attempt != 1:
        return main_of(rollout, loaded, own)
    in_share = place_of(case_id, f"share:{candidate}") < rollout.share
    return candidate if in_share else main_of(rollout, loaded, own)


def shadowed(rollout: Rollout, case_id: UUID) -> bool:
    """Whether the candidate analyses this case as well. This is independent of `share`."""
    return rollout.candidate is not None and place_of(case_id, f"shadow:{rollout.candidate}") < rollout.shadow


def tried(now: Rollout, candidate: str, *, share: float, shadow: float) -> Rollout:
    """Put `candidate` on trial. Raise RolloutRefused when it serves already, or for an impossible share."""
    if candidate == now.serving:
        raise RolloutRefused("this bundle serves already")
    if not (0 <= share <= 1 and 0 <= shadow <= 1):
        raise RolloutRefused("a share is a number from 0 to 1")
    return Rollout(now.serving, candidate, share, shadow)


def promoted(now: Rollout) -> Rollout:
    """Let the candidate serve. Raise RolloutRefused when there is none."""
    if now.candidate is None:
        raise RolloutRefused("no bundle is on trial: `bonafide bundles try` one first")
    return Rollout(serving=now.candidate)


def stopped(now: Rollout) -> Rollout:
    """End the trial. Raise RolloutRefused when there is no candidate."""
    if now.candidate is None:
        raise RolloutRefused("no bundle is on trial")
    return Rollout(serving=now.serving)


def rolled_back(log: Sequence[tuple[Action, Rollout]]) -> Rollout:
    """Undo the last promotion that still stands, without a candidate. `log` has the oldest first.

    A second rollback undoes one promotion more. Raise RolloutRefused when no promotion stands.
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
