"""`python -m benchmarks.chaos`: jobs under random faults for some minutes, then a check of every promise.

Two APIs behind nginx, two schedulers, four workers, PostgreSQL, Redis and an S3 server are real processes on loopback.
"""

import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.run import Outcome, run

console = Console(width=100)


def main(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long faults are done.")] = 10.0,
    seed: Annotated[int | None, typer.Option(help="Draws faults and jobs; random by default, and printed.")] = None,
) -> None:
    """Exit with 1 where a promise was broken."""
    chosen = random.randrange(2**31) if seed is None else seed
    console.print(f"seed {chosen}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        # The database server runs as a separate user and must reach its folder.
        Path(name).chmod(0o755)
        outcome = run(Path(name), minutes * 60, chosen, lambda line: print(line, file=sys.stderr))
    show(outcome)
    if any(outcome.violations.values()):
        raise typer.Exit(1)


def show(outcome: Outcome) -> None:
    """Print it as three tables."""
    faults = Table("fault", "times", title=f"{outcome.faults.total()} faults in {outcome.seconds / 60:.1f} minutes")
    for kind, count in sorted(outcome.faults.items()):
        faults.add_row(kind, str(count))
    ends = ", ".join(f"{count} {state}" for state, count in sorted(outcome.ends.items()))
    broken = Table("promise", "broken", title=f"{outcome.ends.total()} jobs: {ends}; {outcome.webhooks} webhooks taken")
    for name, found in outcome.violations.items():
        broken.add_row(name, f"{len(found)} {' '.join(found[:3])}")
    console.print(faults, broken)
    if len(outcome.restarts) > 1:
        cuts = statistics.quantiles(outcome.restarts, n=20, method="inclusive")
        console.print(
            f"{len(outcome.restarts)} restarts after a lost lease; seconds from requeue to start: "
            f"median {statistics.median(outcome.restarts):.1f}, p95 {cuts[-1]:.1f}, max {max(outcome.restarts):.1f}"
        )


if __name__ == "__main__":
    typer.run(main)
