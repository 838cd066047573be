"""Celery carries hints: a message says that a job of this class waits, and a lost or repeated one does no harm.

It names one such job, for workers of the release before, which take the job that is named.

The measurements behind these settings: docs/decisions/celery-pool.md.
"""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery

from jobs.settings import Settings
from worker import folder_broker

TASK = "sglp.run_job"
SOCKET_SECONDS = 5


def queue_of(gpu_class: str) -> str:
    """The queue that the workers of this GPU class listen on."""
    return f"sglp.{gpu_class}"


def make_app(settings: Settings) -> Celery:
    """The Celery application over the broker of these settings, without any task."""
    app = Celery("sglp")
    app.conf.update(
        broker_url=settings.broker_url,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue=queue_of(settings.gpu_class),
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        task_publish_retry=False,
        worker_pool="solo",
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_redirect_stdouts=False,
        **_transport(settings.broker_url),
    )
    return app


def _transport(broker_url: str) -> dict[str, Any]:  # Celery's own settings, of many types
    parts = urlsplit(broker_url)
    if parts.scheme == "filesystem":
        return {
            "broker_transport": "worker.folder_broker:Transport",
            "broker_transport_options": folder_broker.options(Path(parts.path)),
        }
    return {
        "worker_disable_prefetch": True,
        "broker_transport_options": {
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "socket_keepalive": True,
        },
    }
