"""What Prometheus is told: counted in the database at every scrape, so that any API process says the same."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.repository import OverviewRepository
from jobs.states import State


class _JobsCollector(Collector):
    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._sessions = sessions

    def collect(self) -> Iterator[Metric]:
        with transaction(self._sessions) as session:
            overview = OverviewRepository(session)
            states, ages = overview.jobs_by_state(), overview.queue_ages()
            failures, deliveries = overview.failures(), overview.deliveries()
        jobs = GaugeMetricFamily("sglp_jobs", "Jobs that are there, by state.", labels=["state"])
        for state in State:
            jobs.add_metric([state], states.get(state, 0))
        yield jobs
        age = GaugeMetricFamily(
            "sglp_queue_age_seconds", "How long the job that has waited longest waits.", labels=["gpu_class"]
        )
        for gpu_class, seconds in ages.items():
            age.add_metric([gpu_class], max(0.0, seconds))
        yield age
        failed = GaugeMetricFamily("sglp_failed_jobs", "Failed jobs that are there, by error code.", labels=["code"])
        for code, count in failures.items():
            failed.add_metric([code], count)
        yield failed
        hooks = GaugeMetricFamily(
            "sglp_webhook_deliveries", "Webhook deliveries that are there, by what came of them.", labels=["outcome"]
        )
        for outcome, count in deliveries.items():
            hooks.add_metric([outcome], count)
        yield hooks


def make_registry(sessions: sessionmaker[Session]) -> CollectorRegistry:
    """A registry over this database."""
    # Not asked at registration what it would tell: the database may not be there yet.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_JobsCollector(sessions))
    return registry
