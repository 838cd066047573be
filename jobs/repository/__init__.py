"""All SQL of the service: what users may see and do, what the holder of a job may, what the scheduler may."""

from jobs.repository.claims import Claim, ClaimRepository, PublishedArtifact, StoredAnalysis
from jobs.repository.jobs import JobRepository
from jobs.repository.upkeep import UpkeepRepository

__all__ = ["Claim", "ClaimRepository", "JobRepository", "PublishedArtifact", "StoredAnalysis", "UpkeepRepository"]
