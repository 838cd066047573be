"""The tables. Everything that must never be otherwise is a constraint here, not only a rule in code."""

from jobs.tables.base import Base, JsonObject
from jobs.tables.health import Health
from jobs.tables.jobs import Analysis, Artifact, Event, Job
from jobs.tables.keys import ApiKey, AuditEvent, Tenant
from jobs.tables.submissions import IdempotencyKey, Leftover
from jobs.tables.tallies import Tally
from jobs.tables.uploads import JobUpload, Upload, UploadFile
from jobs.tables.webhooks import WebhookDelivery, WebhookEndpoint

__all__ = [
    "Analysis",
    "ApiKey",
    "Artifact",
    "AuditEvent",
    "Base",
    "Event",
    "Health",
    "IdempotencyKey",
    "Job",
    "JobUpload",
    "JsonObject",
    "Leftover",
    "Tally",
    "Tenant",
    "Upload",
    "UploadFile",
    "WebhookDelivery",
    "WebhookEndpoint",
]
