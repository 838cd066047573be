"""`python -m worker`: one Celery worker process with one supervisor, for the GPU class of the settings."""

import sys

import pyprctl
from celery import signals

from jobs.artifacts import open_store
from jobs.database import make_engine, make_sessions
from jobs.observability.logs import configure_logs
from jobs.observability.tracing import configure_tracing
from jobs.settings import Settings
from worker.celery_app import TASK, make_app, queue_of
from worker.confinement import weaknesses
from worker.health import WorkerHealth
from worker.lifetime import Lifetime
from worker.supervision.supervisor import Supervisor


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    configure_logs("worker")
    # Jobs run as the same user: no other process of that user can read the settings in the memory of this one.
    pyprctl.set_dumpable(False)
    settings = Settings()
    if settings.confinement == "required" and (found := weaknesses()):
        sys.exit(f"SGLP_CONFINEMENT is `required`, and this machine cannot confine jobs: {'; '.join(found)}")
    configure_tracing(settings.otlp_endpoint, "worker")
    app = make_app(settings)
    sessions, store = make_sessions(make_engine(settings)), open_store(settings)
    health = WorkerHealth(sessions, store)
    supervisor = Supervisor(settings, sessions, store, health)
    lifetime = Lifetime(settings.worker_idle_seconds, settings.worker_max_jobs)

    def run_jobs(_job_id: str) -> None:
        # As long as jobs wait, no further message is needed.
        while lifetime.run(supervisor.run):
            pass

    def keep_logging(**_: object) -> None:
        """Celery does not change the logging if this signal has a receiver."""

    def shut_down(**_: object) -> None:
        supervisor.shut_down()

    def be_idle(**_: object) -> None:
        # Celery handles SIGTERM, with which a worker that has been idle for too long ends, only from now on.
        lifetime.start()

    app.task(name=TASK)(run_jobs)
    signals.setup_logging.connect(keep_logging, weak=False)
    signals.worker_shutting_down.connect(shut_down, weak=False)
    signals.worker_ready.connect(be_idle, weak=False)
    health.start()
    # Quiet: the banner is not a JSON line, as every line of the log must be.
    app.worker_main(
        ["--quiet", "worker", "--queues", queue_of(settings.gpu_class), "--without-gossip", "--without-mingle"]
    )


if __name__ == "__main__":
    main()
