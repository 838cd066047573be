"""All SQL of the service: what users may see and do, what the holder of a job may, what the scheduler may."""

from jobs.repository.audit import AuditRepository
from jobs.repository.claims import Claim, ClaimRepository, PublishedArtifact, StoredAnalysis
from jobs.repository.jobs import JobRepository
from jobs.repository.keys import Caller, KeyRepository
from jobs.repository.tenants import QuotaExceeded, Quotas, TenantRepository
from jobs.repository.upkeep import UpkeepRepository

__all__ = [
    "AuditRepository",
    "Caller",
    "Claim",
    "ClaimRepository",
    "JobRepository",
    "KeyRepository",
    "PublishedArtifact",
    "QuotaExceeded",
    "Quotas",
    "StoredAnalysis",
    "TenantRepository",
    "UpkeepRepository",
]
