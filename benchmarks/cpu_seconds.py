"""What servers have cost."""

from collections.abc import Sequence
from contextlib import suppress

import psutil


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """CPU seconds so far of a server and what it has started, also of what has ended meanwhile."""
    spent: float = sum(processes[0].cpu_times()[2:4])
    for process in processes:
        # A backend may end between being listed and being asked; then it is among those that have ended.
        with suppress(psutil.NoSuchProcess):
            spent += sum(process.cpu_times()[:2])
    return spent
