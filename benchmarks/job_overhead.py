"""What a job costs that computes next to nothing, beside one import of the method, which no job can do without.

    OMP_NUM_THREADS=1 python -m benchmarks.job_overhead [--runs 5]

A random six-layer Llama is compressed on a few words by the process that a worker starts for a job, with an empty
cache.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, NamedTuple

import typer

from benchmarks.markdown_table import print_table
from tests.worker.tiny_model import tiny_spec, write_text, write_tiny_model
from worker.sources.access import DownloadLimits
from worker.sources.local_spec import LocalSpec
from worker.supervision.child_process import ChildProcess
from worker.supervision.messages import ChildRequest


class Cost(NamedTuple):
    """Seconds on the clock, and of the processor, of all processes that were started."""

    wall: float
    cpu: float


def main(runs: Annotated[int, typer.Option(help="How often each is measured, in turns.")] = 5) -> None:
    """Print medians."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tiny_model(folder / "model")
        write_text(folder / "text.txt")
        imports, jobs = [], []
        for number in range(runs):
            imports.append(_cost(partial(subprocess.run, [sys.executable, "-c", "import sglp_core"], check=True)))
            jobs.append(_cost(partial(_job, folder, folder / str(number))))
    rows = {"import sglp_core": imports, "a job": jobs}
    limit = median(cost.cpu for cost in imports)
    print_table(
        f"Medians of {runs} runs",
        (
            {
                "": name,
                "seconds": f"{median(cost.wall for cost in costs):.1f}",
                "CPU seconds": f"{median(cost.cpu for cost in costs):.1f}",
                "of one import": f"{median(cost.cpu for cost in costs) / limit:.1f}",
            }
            for name, costs in rows.items()
        ),
    )


def _cost(do: Callable[[], object]) -> Cost:
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    do()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - begin, cpu)


def _job(source: Path, directory: Path) -> None:
    cache = directory / "cache"
    cache.mkdir(parents=True)
    (directory / "work").mkdir()
    request = ChildRequest(
        spec=LocalSpec(**tiny_spec(source / "model", source / "text.txt")),
        roots=(source,),
        downloads=cache,
        links=directory,
        cache=cache,
        limits=DownloadLimits(max_bytes=1 << 30, max_files=100, seconds=60, cache_bytes=1 << 30),
        redirect_places=(),
        allowed_networks=(),
        memory_bytes=None,
        uploads={},
        received=directory / "received",
    )
    child = ChildProcess(request, directory / "work")
    while not child.ended():
        list(child.messages(0.25))
    if child.close():
        sys.exit(child.log_tail())


if __name__ == "__main__":
    typer.run(main)
