"""All SQL of the service: what users may see and do, what the holder of a job may, what the scheduler may."""

from jobs.repository.administration.audit import AuditRepository
from jobs.repository.administration.keys import Caller, KeyRepository
from jobs.repository.administration.removal import Left, RemovalRepository
from jobs.repository.administration.tenants import Quotas, TenantRepository
from jobs.repository.claims import Claim, ClaimRepository, JobUpdate, Outcome, PublishedArtifact, StoredAnalysis
from jobs.repository.health import BROKER, CONFINEMENT, SCHEDULER, STORE, HealthRepository
from jobs.repository.inventory import InventoryRepository, StoredFile
from jobs.repository.jobs import JobRepository, Origin, RankedJob
from jobs.repository.overview import OverviewRepository
from jobs.repository.queue.fair_queue import QueueRepository
from jobs.repository.queue.outlook import Outlook, Place
from jobs.repository.quotas import QuotaExceeded, TenantDeleting
from jobs.repository.submissions import IdempotentRequest, JobDeleted, KeyReused, SubmissionRepository
from jobs.repository.upkeep import UpkeepRepository
from jobs.repository.uploads import DeclaredFile, StoredUpload, UnusableUpload, UploadRepository, missing_code
from jobs.repository.watching import JobVersion, WatchRepository
from jobs.repository.webhooks.deliveries import DeliveryRepository, DueDelivery
from jobs.repository.webhooks.endpoints import MOST_ENDPOINTS, TooManyEndpoints, WebhookRepository
from jobs.repository.webhooks.secrets import SecretRepository

__all__ = [
    "BROKER",
    "CONFINEMENT",
    "MOST_ENDPOINTS",
    "SCHEDULER",
    "STORE",
    "AuditRepository",
    "Caller",
    "Claim",
    "ClaimRepository",
    "DeclaredFile",
    "DeliveryRepository",
    "DueDelivery",
    "HealthRepository",
    "IdempotentRequest",
    "InventoryRepository",
    "JobDeleted",
    "JobRepository",
    "JobUpdate",
    "JobVersion",
    "KeyRepository",
    "KeyReused",
    "Left",
    "Origin",
    "Outcome",
    "Outlook",
    "OverviewRepository",
    "Place",
    "PublishedArtifact",
    "QueueRepository",
    "QuotaExceeded",
    "Quotas",
    "RankedJob",
    "RemovalRepository",
    "SecretRepository",
    "StoredAnalysis",
    "StoredFile",
    "StoredUpload",
    "SubmissionRepository",
    "TenantDeleting",
    "TenantRepository",
    "TooManyEndpoints",
    "UnusableUpload",
    "UpkeepRepository",
    "UploadRepository",
    "WatchRepository",
    "WebhookRepository",
    "missing_code",
]
