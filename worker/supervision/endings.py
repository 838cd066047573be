"""The ways a job ends, each as the one write to the database that ends it."""

from collections.abc import Callable, Sequence

from jobs.errors import JobError
from jobs.repository import ClaimRepository, PublishedArtifact
from jobs.settings import Settings
from worker.supervision.lease import Lease, Stop

# So many seconds the store is tried for each second that the job then waits.
PATIENCE_PER_WAIT = 10

# True if the job was still ours and is ended now.
Ending = Callable[[ClaimRepository], bool]


class EndedEarly(Exception):
    """A job that had to stop before it was done. `ending` is None where it is not ours to end."""

    def __init__(self, ending: Ending | None) -> None:
        self.ending = ending
        super().__init__("the job had to stop before it was done")


def stopped(lease: Lease) -> Ending | None:
    """The job as `lease.stop` demands; None for a lost lease, where nothing may be written."""
    if lease.stop is Stop.LOST:
        return None
    if lease.stop is Stop.CANCELLED:
        return lambda jobs: jobs.cancelled(lease.claim.job_id, lease.claim.fence)
    return failed(lease, "deadline_exceeded", "the job did not end within its deadline_seconds")


def released(lease: Lease) -> Ending:
    """Back in the queue, because this worker shuts down."""
    return lambda jobs: jobs.release(lease.claim.job_id, lease.claim.fence, reason="worker_shutdown")


def waiting_for_store(lease: Lease, settings: Settings) -> Ending:
    """Back in the queue, because the artifact store fails. Other jobs have their turn before it is tried again."""
    wait_seconds = settings.artifact_patience_seconds / PATIENCE_PER_WAIT
    claim = lease.claim
    return lambda jobs: jobs.release(claim.job_id, claim.fence, reason="storage_unavailable", wait_seconds=wait_seconds)


def failed(
    lease: Lease,
    code: str,
    message: str,
    *,
    artifacts: Sequence[PublishedArtifact] = (),
    retention_days: float = 0,
) -> Ending:
    """Failed with an error; `artifacts` are published all the same, for `retention_days` (0: for ever)."""
    error = JobError(code=code, message=message, phase=lease.phase, attempt=lease.claim.attempt)
    return lambda jobs: jobs.fail(
        lease.claim.job_id, lease.claim.fence, error, artifacts=artifacts, retention_days=retention_days
    )
