"""The tables. Everything that must never be otherwise is a constraint here, not only a rule in code."""

from jobs.tables.base import Base, JsonObject
from jobs.tables.counters import Counter
from jobs.tables.health import Health
from jobs.tables.jobs import Analysis, Artifact, Event, Job
from jobs.tables.keys import ApiKey, AuditEvent, Tenant
from jobs.tables.queues import Queue, Share
from jobs.tables.submissions import DeletedJob, IdempotencyKey
from jobs.tables.uploads import JobUpload, Upload, UploadFile
from jobs.tables.webhooks import WebhookDelivery, WebhookEndpoint

__all__ = [
    "Analysis",
    "ApiKey",
    "Artifact",
    "AuditEvent",
    "Base",
    "Counter",
    "DeletedJob",
    "Event",
    "Health",
    "IdempotencyKey",
    "Job",
    "JobUpload",
    "JsonObject",
    "Queue",
    "Share",
    "Tenant",
    "Upload",
    "UploadFile",
    "WebhookDelivery",
    "WebhookEndpoint",
]
