"""All SQL of the service: what users may see and do, what the holder of a job may, what the scheduler may."""

from jobs.repository.claims import Claim, ClaimRepository, PublishedArtifact, StoredAnalysis
from jobs.repository.jobs import JobRepository
from jobs.repository.submissions import KeyReused, SubmissionRepository
from jobs.repository.upkeep import UpkeepRepository
from jobs.repository.watching import Standing, WatchRepository
from jobs.repository.webhooks import DeliveryRepository, DueDelivery, WebhookRepository

__all__ = [
    "Claim",
    "ClaimRepository",
    "DeliveryRepository",
    "DueDelivery",
    "JobRepository",
    "KeyReused",
    "PublishedArtifact",
    "Standing",
    "StoredAnalysis",
    "SubmissionRepository",
    "UpkeepRepository",
    "WatchRepository",
    "WebhookRepository",
]
