"""Metrics for Prometheus. Counts of jobs come from the database, so every API process reports the same numbers, and no
restart loses them; counts of requests are those of this process. See docs/decisions/metrics.md.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from http import HTTPMethod

from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from sqlalchemy.orm import Session, sessionmaker

from jobs.database import transaction
from jobs.repository import BROKER, SCHEDULER, HealthRepository, OverviewRepository, counters
from jobs.states import TERMINAL, State

# They would be one more series for each counter, and Prometheus does not use them.
disable_created_metrics()

OTHER = "other"
METHODS = frozenset(HTTPMethod)
DOWNLOADS = frozenset({"/v1/jobs/{job_id}/artifacts/{name:path}", "/v1/jobs/{job_id}/artifacts.tar"})


class RequestMetrics:
    """Counts the requests that this process has answered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "sglp_http_requests", "Requests, by route and status.", ["method", "route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "sglp_http_request_duration_seconds",
            "From a request to the end of its answer.",
            ["route"],
            registry=registry,
        )
        self._downloads = Counter(
            "sglp_artifact_downloads",
            "Downloads: sent from here (direct), or sent to the store (redirect).",
            ["way"],
            registry=registry,
        )
        for way in ("direct", "redirect"):
            # With a zero for what has not happened yet, so that the first time is an increase too.
            self._downloads.labels(way)
        self._served = Counter("sglp_artifact_served_bytes", "Bytes of downloads that were sent.", registry=registry)

    def count(self, method: str, route: str | None, status: int, seconds: float, sent_bytes: int) -> None:
        """Count one request; a label has one of few values, whatever is asked for."""
        self._requests.labels(method if method in METHODS else OTHER, route or "none", status).inc()
        self._seconds.labels(route or "none").observe(seconds)
        if route in DOWNLOADS and method != "HEAD" and status < 400:
            self._downloads.labels("redirect" if status == 307 else "direct").inc()
            self._served.inc(sent_bytes)


class _JobsCollector(Collector):
    def __init__(self, sessions: sessionmaker[Session], gpu_classes: Collection[str]) -> None:
        self._sessions, self._gpu_classes = sessions, gpu_classes

    def collect(self) -> Iterator[Metric]:
        with transaction(self._sessions) as session:
            overview = OverviewRepository(session)
            states, ages = overview.jobs_by_state(), overview.queue_ages()
            failures, deliveries = overview.failures(), overview.deliveries()
            kept_bytes, counted = overview.kept_bytes(), overview.counters()
            troubles = HealthRepository(session).troubles()
        yield _gauge("jobs", "Jobs that are there, by state.", "state", {s: states.get(s, 0) for s in State})
        yield _gauge(
            "part_healthy",
            "Whether scheduler and broker work: 1, or 0 where /readyz says degraded.",
            "part",
            {part: float(part not in troubles) for part in (SCHEDULER, BROKER)},
        )
        yield _gauge(
            "queue_age_seconds",
            "How long the job that has waited longest waits.",
            "gpu_class",
            self._known(ages),
        )
        yield _gauge("failed_jobs", "Failed jobs that are there, by error code.", "code", failures)
        yield _gauge(
            "webhook_deliveries", "Webhook deliveries that are there, by what came of them.", "outcome", deliveries
        )
        yield GaugeMetricFamily("sglp_artifact_kept_bytes", "Published files in the store.", kept_bytes)
        yield _counter("jobs_ended", "Jobs that have ended.", "state", TERMINAL, counted.get(counters.JOBS_ENDED, {}))
        yield _counter(
            "leases_expired",
            "Jobs taken from workers that were not heard of for a lease, by where they went.",
            "state",
            (State.QUEUED, State.FAILED, State.CANCELLED),
            counted.get(counters.LEASES_EXPIRED, {}),
        )
        yield _counter(
            "fenced_writes",
            "Writes of workers whose job was somebody else's by then; nothing was written.",
            "write",
            ("heartbeat", "end"),
            counted.get(counters.FENCED_WRITES, {}),
        )
        yield _counter(
            "webhook_attempts",
            "Tries to deliver a webhook.",
            "outcome",
            ("delivered", "failed"),
            counted.get(counters.WEBHOOK_ATTEMPTS, {}),
        )
        stored = counted.get(counters.STORED_BYTES, {}).get("", 0)
        yield CounterMetricFamily("sglp_artifact_stored_bytes", "Bytes ever published.", stored)
        yield _phases(counted.get(counters.PHASE_SECONDS, {}), counted.get(counters.PHASE_BUCKETS, {}))

    def _known(self, ages: Mapping[str, float]) -> dict[str, float]:
        """Jobs may still wait for a class that the operator names no more: all of these as `other`."""
        known: dict[str, float] = {}
        for gpu_class, seconds in ages.items():
            label = gpu_class if gpu_class in self._gpu_classes else OTHER
            known[label] = max(0.0, seconds, known.get(label, 0.0))
        return known


def make_registry(sessions: sessionmaker[Session], gpu_classes: Collection[str]) -> CollectorRegistry:
    """A registry over this database; `gpu_classes` are those that become labels."""
    # Nothing is read at registration: the database may not be there yet.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_JobsCollector(sessions, gpu_classes))
    return registry


async def read_metrics(registry: CollectorRegistry) -> bytes:
    """The page that Prometheus reads."""
    # Not on a thread of those that requests share.
    return await to_thread.run_sync(generate_latest, registry, limiter=CapacityLimiter(1))


def _gauge(name: str, description: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"sglp_{name}", description, labels=[label])
    for each, value in values.items():
        family.add_metric([each], value)
    return family


def _counter(name: str, description: str, label: str, known: Iterable[str], values: Mapping[str, float]) -> Metric:
    """With a zero for what has never happened, so that the first time is an increase too."""
    family = CounterMetricFamily(f"sglp_{name}", description, labels=[label])
    for each in known:
        family.add_metric([each], values.get(each, 0))
    return family


def _phases(seconds: Mapping[str, float], buckets: Mapping[str, float]) -> Metric:
    family = HistogramMetricFamily(
        "sglp_phase_duration_seconds", "How long jobs took over each phase.", labels=["phase"]
    )
    for phase, total in sorted(seconds.items()):
        count, cumulative = 0.0, []
        for bound in counters.BOUNDS:
            count += buckets.get(f"{phase} {bound}", 0)
            cumulative.append((floatToGoString(bound), count))
        family.add_metric([phase], cumulative, total)
    return family
