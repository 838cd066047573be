"""The service as its operators see it: counts over the jobs of all tenants, without saying whose they are."""

from sqlalchemy import Select, case, func, select
from sqlalchemy.orm import Session

from jobs.clock import seconds_until
from jobs.repository.counters import read_counters
from jobs.states import State
from jobs.tables import Artifact, Job, WebhookDelivery


class OverviewRepository:
    """Counts for monitoring."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def jobs_by_state(self) -> dict[str, int]:
        """How many jobs there are in each state that has any."""
        return self._counts(select(Job.state, func.count()).group_by(Job.state))

    def queue_ages(self) -> dict[str, float]:
        """For each GPU class with waiting jobs, the seconds since the oldest of them was made."""
        waiting = select(Job.gpu_class, func.max(-seconds_until(Job.created_at))).where(Job.state == State.QUEUED)
        return {name: float(seconds) for name, seconds in self._session.execute(waiting.group_by(Job.gpu_class))}

    def failures(self) -> dict[str, int]:
        """How many jobs have failed with each error code."""
        code = Job.error["code"].as_string()
        return self._counts(select(code, func.count()).where(Job.state == State.FAILED).group_by(code))

    def deliveries(self) -> dict[str, int]:
        """How many webhook deliveries succeeded (`delivered`), are still to be sent (`waiting`), or failed for good
        (`given_up`).
        """
        outcome = case(
            (WebhookDelivery.delivered_at.is_not(None), "delivered"),
            (WebhookDelivery.next_at.is_not(None), "waiting"),
            else_="given_up",
        )
        return self._counts(select(outcome, func.count()).group_by(outcome))

    def kept_bytes(self) -> int:
        """How much the published files take up that still lie in the store."""
        return int(
            self._session.scalar(select(func.sum(Artifact.size_bytes)).where(Artifact.removed_at.is_(None))) or 0
        )

    def counters(self) -> dict[str, dict[str, float]]:
        """Everything that was ever counted: label to value, by name of `jobs/repository/counters.py`."""
        return read_counters(self._session)

    def _counts(self, statement: Select[str, int]) -> dict[str, int]:
        return dict(self._session.execute(statement).tuples().all())
