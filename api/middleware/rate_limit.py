"""Rate limits, and the header fields that tell them (draft-ietf-httpapi-ratelimit-headers-10).

Each API process counts for itself: the limit is there to stop a loop that has run wild, not to divide the service up,
which is what quotas do. So a request costs no round trip to a shared counter.
"""

import math
import time
from dataclasses import dataclass

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter


@dataclass(frozen=True)
class Rate:
    """Whether a request was `within` the limit, what all answers say of it, and what a refusal says besides."""

    within: bool
    headers: dict[str, str]
    retry_headers: dict[str, str]


class Rates:
    """So many requests a minute for each of any number of callers, in a window that slides."""

    def __init__(self, requests_per_minute: int) -> None:
        self._limit = RateLimitItemPerMinute(requests_per_minute)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def count(self, who: str) -> Rate:
        """Count one request of this caller."""
        within = await self._limiter.hit(self._limit, who)
        stats = await self._limiter.get_window_stats(self._limit, who)
        seconds = max(1, math.ceil(stats.reset_time - time.time()))
        headers = {
            "RateLimit-Policy": f'"default";q={self._limit.amount};w={self._limit.get_expiry()}',
            "RateLimit": f'"default";r={stats.remaining};t={seconds}',
        }
        return Rate(within, headers, {"Retry-After": str(seconds)})
