"""The figures of the finished steps of a run, kept on disk: a run whose process was killed need not do them again."""

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

from sglp_core.result_cache import Cache, CachedResult, Key

# A step takes a moment or minutes, and each time the whole journal is written.
SECONDS_BETWEEN_WRITES = 2.0
STEPS = "steps"


class StepJournal:
    """Results of steps by name and inputs, all of them JSON; `key` is whatever else they depend on.

    Without a `cache` nothing is kept, not even for this run.
    """

    def __init__(self, cache: Cache | None = None, key: Key | None = None) -> None:
        self._cache, self._key = cache, key or {}
        found = cache.find(self._key) if cache else None
        self._results: dict[str, Any] = dict(found.facts[STEPS]) if found else {}
        self._written_at = time.monotonic()
        self._unwritten = False

    # What JSON there is differs by step.
    def step(self, name: str, inputs: Any, compute: Callable[[], Any]) -> Any:
        """The result of this step on these inputs: the kept one, else that of `compute()`, which is then kept."""
        if self._cache is None:
            return compute()
        digest = hashlib.sha256(json.dumps([name, inputs]).encode()).hexdigest()
        if digest not in self._results:
            # As it would be read again, so that a run which goes on is the same as one that was never stopped.
            self._results[digest] = json.loads(json.dumps(compute()))
            self._unwritten = True
            if time.monotonic() - self._written_at > SECONDS_BETWEEN_WRITES:
                self.write()
        return self._results[digest]

    def write(self) -> None:
        """Keep what has been found since it was last written."""
        if self._cache is not None and self._unwritten:
            self._cache.keep(self._key, CachedResult({}, {STEPS: self._results}))
            self._unwritten, self._written_at = False, time.monotonic()
