"""Who is seen first, as arithmetic. Nothing here is stored: an order is derived when it is needed."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from moderation.analysis import Verdict
from moderation.cases import Stage


class Lane(enum.StrEnum):
    """Where a case stands while it waits for its analysis."""

    #: Somebody's upload hangs on it.
    LIVE = "live"
    #: It can wait until nothing live does, but for one place in a few that is always its own.
    BACKFILL = "backfill"


#: From this priority on a case is in the live lane.
LIVE_FROM = 10


def lane_of(priority: int) -> Lane:
    return Lane.LIVE if priority >= LIVE_FROM else Lane.BACKFILL


#: Seconds of age that one point of priority is worth: a hundred points are a day. Age always counts on, so that what
#: has a low priority is seen later and never never.
PRIORITY_SECONDS = 864
#: Seconds of age that the most uncertain verdict is worth: where the model cannot tell, a person says most.
UNCERTAIN_SECONDS = 3600
#: Seconds of age that it is worth when what a picture is declared to be and its verdict do not fit together.
CONFLICT_SECONDS = 4 * 3600
#: Seconds of age that a stage is worth. Somebody waits for the answer to an appeal; an escalation was looked at once.
STAGE_SECONDS: Mapping[Stage, int] = {
    Stage.FIRST: 0,
    Stage.SECOND: 0,
    Stage.ESCALATED: 4 * 3600,
    Stage.APPEAL: 8 * 3600,
}


def head_start(
    priority: int, uncertainty: float, stage: Stage = Stage.FIRST, *, conflict: bool = False
) -> float:
    """Seconds that a case is put before others which became ready at the same time.

    All cases age alike, so the order of two never changes while they wait: one stored time is the place of each.
    `conflict` says that the evidence and the verdict do not fit together.
    """
    doubt = UNCERTAIN_SECONDS * uncertainty + CONFLICT_SECONDS * conflict
    return PRIORITY_SECONDS * priority + doubt + STAGE_SECONDS[stage]


def uncertainty(verdict: Verdict | None) -> float:
    """In [0, 1]: 1 when the score is in the middle or there is none, 0 when the model is sure."""
    if verdict is None or verdict.score is None:
        return 1.0
    return 1.0 - abs(2 * verdict.score - 1)


@dataclass(frozen=True)
class QueueStats:
    """How the waiting line stands, by the database's clock."""

    waiting: int
    analyzing: int
    ready: int
    #: Seconds the oldest waiting case has waited. 0 when none waits.
    oldest_waiting_seconds: float
    #: Cases that became ready per second, over the last minute.
    ready_per_second: float
    #: Cases that wait to be analysed once more, behind all others. Counted up to a hundred thousand.
    reruns: int = 0

    @property
    def estimated_wait_seconds(self) -> float | None:
        """When a case submitted now would be ready, at the present rate. None while nothing is being finished."""
        ahead = self.waiting + self.analyzing
        if ahead == 0:
            return 0.0
        return ahead / self.ready_per_second if self.ready_per_second > 0 else None


def retry_delay(attempt: int, *, random: float) -> float:
    """Seconds to wait before the next try: 1, 2, 4 … at most 300, with full jitter on the upper half.

    `random` is in [0, 1). Jitter keeps a thousand cases that failed together from coming back together
    (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
    """
    ceiling = min(300.0, 2.0 ** max(0, attempt - 1))
    return ceiling / 2 + random * ceiling / 2


def postponed_for(postponements: int) -> float:
    """Seconds that so many `retry_delay`s add up to, at the most."""
    return sum(min(300.0, 2.0**n) for n in range(postponements))
