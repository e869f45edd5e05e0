"""Which case comes first. Only arithmetic: nothing is stored, the order is computed when it is needed."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from moderation.analysis import Verdict
from moderation.cases import Stage


class Lane(enum.StrEnum):
    """The line in which a case waits for its analysis."""

    #: Somebody's upload waits for it.
    LIVE = "live"
    #: It waits until no live case does. But one place in a few is always its own.
    BACKFILL = "backfill"


#: From this priority on, a case is in the live lane.
LIVE_FROM = 10


def lane_of(priority: int) -> Lane:
    return Lane.LIVE if priority >= LIVE_FROM else Lane.BACKFILL


#: One point of priority is worth so many seconds of age: a hundred points are a day. Age always grows, so a case of low
#: priority comes later, but it comes.
PRIORITY_SECONDS = 864
#: The most uncertain verdict is worth so many seconds of age: a person helps most where the model cannot tell.
UNCERTAIN_SECONDS = 3600
#: A verdict that contradicts what the picture is declared to be is worth so many seconds of age.
CONFLICT_SECONDS = 4 * 3600
#: Each stage is worth so many seconds of age. Somebody waits for an appeal; one person has seen an escalation.
STAGE_AGE_SECONDS: Mapping[Stage, int] = {
    Stage.FIRST: 0,
    Stage.SECOND: 0,
    Stage.ESCALATED: 4 * 3600,
    Stage.APPEAL: 8 * 3600,
}


def head_start(
    priority: int, uncertainty: float, stage: Stage = Stage.FIRST, *, conflict: bool = False
) -> float:
    """Seconds by which a case comes before others that became ready at the same time.

    All cases age alike, so the order of two never changes while they wait, and one stored time is enough for each.
    `conflict`: the evidence contradicts the verdict.
    """
    doubt = UNCERTAIN_SECONDS * uncertainty + CONFLICT_SECONDS * conflict
    return PRIORITY_SECONDS * priority + doubt + STAGE_AGE_SECONDS[stage]


def uncertainty(verdict: Verdict | None) -> float:
    """In [0, 1]: 1 when the score is in the middle or there is none, 0 when the model is sure."""
    if verdict is None or verdict.score is None:
        return 1.0
    return 1.0 - abs(2 * verdict.score - 1)


@dataclass(frozen=True)
class QueueStats:
    """The state of the line, by the database's clock."""

    waiting: int
    analyzing: int
    ready: int
    #: Seconds since the oldest case without an analysis was accepted: it waits or is being analysed. 0: there is none.
    oldest_waiting_seconds: float
    #: Cases that became ready per second, over the last minute.
    ready_per_second: float
    #: Reruns that wait, behind all other cases. Counted up to a hundred thousand.
    reruns: int = 0

    @property
    def estimated_wait_seconds(self) -> float | None:
        """Seconds until a case submitted now would be ready, at the current rate. None while no case becomes ready."""
        ahead = self.waiting + self.analyzing
        if ahead == 0:
            return 0.0
        return ahead / self.ready_per_second if self.ready_per_second > 0 else None


def retry_delay(attempt: int, *, random: float) -> float:
    """Seconds to wait before the next try: 1, 2, 4 … at most 300, with full jitter on the upper half.

    `random` is in [0, 1), and a case keeps its own, so that its delays can be added up. With jitter a thousand cases
    that failed at the same time do not all return at the same time
    (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
    """
    ceiling = min(300.0, 2.0 ** max(0, attempt - 1))
    return ceiling / 2 + random * ceiling / 2


def postponed_for(postponements: int, *, random: float) -> float:
    """The sum of the first so many `retry_delay`s, in seconds."""
    return sum(retry_delay(n, random=random) for n in range(1, postponements + 1))
