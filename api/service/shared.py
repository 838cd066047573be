"""Answers that are the same for whoever asks, worked out once for all who ask at the same time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

FRESH_SECONDS = 2.0

Answer = TypeVar("Answer")


class Shared(Generic[Answer]):
    """What `compute` returns, at most `fresh_seconds` old, by default `FRESH_SECONDS`; of any number of callers one
    computes it, and its errors go to those who waited for it alone.
    """

    def __init__(self, compute: Callable[[], Awaitable[Answer]], fresh_seconds: float | None = None) -> None:
        self._compute = compute
        self._fresh_seconds = fresh_seconds
        self._task: asyncio.Task[Answer] | None = None
        self._computed_at = float("-inf")

    async def get(self) -> Answer:
        """The answer; raises what `compute` raises."""
        fresh_seconds = FRESH_SECONDS if self._fresh_seconds is None else self._fresh_seconds
        is_old = time.monotonic() - self._computed_at >= fresh_seconds
        if self._task is None or (self._task.done() and is_old):
            self._task = asyncio.create_task(self._run())
        # A caller that goes away takes the answer from nobody.
        return await asyncio.shield(self._task)

    async def _run(self) -> Answer:
        answer = await self._compute()
        self._computed_at = time.monotonic()
        return answer
