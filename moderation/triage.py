"""Who is seen first, as arithmetic. Nothing here is stored: an order is derived when it is needed."""

from dataclasses import dataclass


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
