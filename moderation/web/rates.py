"""Limits what each platform may submit in a period, counted in Redis for all API processes.

This is the only reason to turn cases away. When workers are down, accepted cases wait. When Redis does not answer,
everything is accepted.
"""

import math
import time
from typing import Any

import structlog
from limits import RateLimitItem, parse
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis import ConnectionPool
from redis.exceptions import RedisError

from moderation.addresses import read_broker
from moderation.errors import TooManyCases

#: Seconds that a caller waits for Redis, and seconds without another try after it did not answer.
ANSWERS_WITHIN, QUIET_AFTER_FAILURE = 0.3, 3.0

log = structlog.get_logger()


class Rates:
    """Threads may share it. `rate` is as in "1000/minute"; None accepts everything."""

    def __init__(self, broker_url: str, rate: str | None) -> None:
        self._rate: RateLimitItem | None = None if rate is None else parse(rate)
        self._quiet_until = 0.0
        if self._rate is not None:
            timeouts: dict[str, Any] = {
                "socket_timeout": ANSWERS_WITHIN,
                "socket_connect_timeout": ANSWERS_WITHIN,
            }
            pool = ConnectionPool.from_url(read_broker(broker_url).redis_url, **timeouts)
            storage = RedisStorage("redis://", connection_pool=pool, wrap_exceptions=False)
            self._limiter = SlidingWindowCounterRateLimiter(storage)

    def take(self, platform: str, cases: int) -> None:
        """Count so many cases. Raise TooManyCases, with the time to wait, when they are over the rate."""
        if self._rate is None or time.monotonic() < self._quiet_until:
            return
        # A batch that is larger than the rate passes when nothing else was submitted: otherwise it never could.
        cost = min(cases, self._rate.amount)
        try:
            if self._limiter.hit(self._rate, platform, cost=cost):
                return
            wait = self._limiter.get_window_stats(self._rate, platform).reset_time - time.time()
        except (RedisError, OSError) as error:
            self._quiet_until = time.monotonic() + QUIET_AFTER_FAILURE
            log.warning("rate_not_counted", action="intake", error=str(error))
            return
        raise TooManyCases(
            f"{platform} may submit {self._rate.amount} cases in {self._rate.get_expiry()} seconds",
            retry_after=max(1, math.ceil(wait)),
        )
