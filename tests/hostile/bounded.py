"""A bound on what refusing may take."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 10.0
MEMORY_BYTES = 1 << 30


@contextmanager
def bounded(seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> Iterator[None]:
    """Fails where the block takes longer, or raises this process's largest memory by more."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - started < seconds
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < memory_bytes
