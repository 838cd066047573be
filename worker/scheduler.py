"""The scheduler: tells workers that jobs wait, requeues jobs of dead workers, expires jobs, and cleans up.

Every duty may run any number of times and in any number of processes at once.
"""

import signal
import threading
from collections.abc import Callable

import pyprctl
import structlog
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore, open_store
from jobs.database import make_engine, make_sessions, transaction
from jobs.observability.logs import configure_logs
from jobs.repository import BROKER, SCHEDULER, HealthRepository, QueueRepository, UpkeepRepository
from jobs.security.signing_secrets import make_sealer
from jobs.settings import Settings
from worker.celery_app import TASK, make_app, queue_of
from worker.upkeep.cleanup import Sweeper
from worker.upkeep.tenant_removal import TenantRemoval
from worker.upkeep.webhook_delivery import WebhookSender

BATCH = 100
BROKER_SECONDS = 5
SWEEP_INTERVAL_SECONDS = 5.0
HEALTH_INTERVAL_SECONDS = 5.0
ORPHAN_INTERVAL_SECONDS = 60.0
# Each wakes an idle worker, which then goes on by itself as long as jobs wait.
MOST_WAITING_HINTS = 100

log = structlog.get_logger(__name__)


class Scheduler:
    """Repeats its duties; a duty that fails is tried again in the next round and does not stop the others."""

    def __init__(
        self, settings: Settings, sessions: sessionmaker[Session], store: ArtifactStore, celery: Celery
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._sweeper = Sweeper(sessions, store, settings)
        self._removal = TenantRemoval(sessions, store, settings)
        self._webhooks = WebhookSender(
            sessions, make_sealer(settings), [str(each) for each in settings.egress_allowed_networks]
        )
        self._celery = celery
        self._failing: set[str] = set()

    def run(self, stopping: threading.Event) -> None:
        """Reap, expire, keep the queues and hint until `stopping` is set."""
        while not stopping.wait(self._settings.scheduler_interval_seconds):
            self.run_once()

    def run_once(self) -> None:
        """Reap, expire, keep the queues and hint once."""
        for duty in (self._reap, self._expire, self._advance, self._hint):
            self._try(duty)

    def start_threads(self, stopping: threading.Event) -> None:
        """Start the duties that may hang on a store, a broker or a receiver. They run on separate threads until
        `stopping` is set, so that none of them delays jobs or another duty.
        """
        sweeper, webhooks = self._sweeper, self._webhooks
        sweeping = (
            sweeper.sweep_finished,
            sweeper.remove_expired,
            sweeper.remove_deleted_jobs,
            sweeper.forget_keys,
            sweeper.forget_audit_events,
            sweeper.expire_uploads,
            webhooks.forget_old,
        )
        self._start(stopping, SWEEP_INTERVAL_SECONDS, *sweeping)
        self._start(stopping, SWEEP_INTERVAL_SECONDS, self._removal.remove_tenants)
        self._start(stopping, ORPHAN_INTERVAL_SECONDS, sweeper.remove_orphans, sweeper.remove_oversized)
        self._start(stopping, HEALTH_INTERVAL_SECONDS, self.record_health)
        self._start(stopping, self._settings.scheduler_interval_seconds, webhooks.deliver_due)

    def _start(self, stopping: threading.Event, interval_seconds: float, *duties: Callable[[], None]) -> None:
        def repeat() -> None:
            while not stopping.wait(interval_seconds):
                for duty in duties:
                    self._try(duty)

        threading.Thread(target=repeat, daemon=True, name=duties[0].__name__).start()

    def record_health(self) -> None:
        """Store whether hints can be sent, for the API, which has no connection to the broker."""
        trouble = None
        try:
            with self._celery.connection_for_write() as connection:
                connection.ensure_connection(max_retries=1, timeout=BROKER_SECONDS)
        except Exception as error:
            trouble = f"does not answer the scheduler ({type(error).__name__})"
        with transaction(self._sessions) as session:
            health = HealthRepository(session)
            health.record(SCHEDULER, None)
            health.record(BROKER, trouble)

    def _try(self, duty: Callable[[], None]) -> None:
        """Log a failure when it begins and when it ends, not in every round in between."""
        name = duty.__name__.strip("_")
        try:
            duty()
        except Exception:
            if name not in self._failing:
                log.exception(f"{name} fails and will be tried again")
            self._failing.add(name)
        else:
            if name in self._failing:
                log.info(f"{name} works again")
            self._failing.discard(name)

    def _reap(self) -> None:
        with transaction(self._sessions) as session:
            reaped = UpkeepRepository(session).reap(BATCH, self._settings.retry_backoff_seconds)
        for job_id, state in reaped:
            log.warning("a lease expired without a heartbeat", job_id=job_id, status=state)

    def _expire(self) -> None:
        with transaction(self._sessions) as session:
            UpkeepRepository(session).expire_queued(BATCH)

    def _advance(self) -> None:
        with transaction(self._sessions) as session:
            QueueRepository(session).advance()

    def _hint(self) -> None:
        """Have as many messages in each queue as jobs wait, or as many as are useful at a time."""
        with transaction(self._sessions) as session:
            claimable = QueueRepository(session).claimable(MOST_WAITING_HINTS)
        if not claimable:
            return
        with self._celery.producer_pool.acquire(block=True) as producer:
            for gpu_class, job_ids in claimable.items():
                queue = queue_of(gpu_class)
                for job_id in job_ids[producer.channel.queue_declare(queue=queue).message_count :]:
                    self._celery.send_task(TASK, args=[job_id], queue=queue, producer=producer)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    configure_logs("scheduler")
    # As in a worker, which may run on the same machine.
    pyprctl.set_dumpable(False)
    settings = Settings()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    scheduler = Scheduler(settings, make_sessions(make_engine(settings)), open_store(settings), make_app(settings))
    log.info("the scheduler starts", interval_seconds=settings.scheduler_interval_seconds)
    scheduler.start_threads(stopping)
    scheduler.run(stopping)
    log.info("the scheduler ends")


if __name__ == "__main__":
    main()
