"""The Python SDK of SGLP, the service that makes trained neural networks smaller.

from sglp_client import SGLP

with SGLP("http://127.0.0.1:8000") as service:
    job = service.submit({"model": {"uri": "hf://org/name"}, "target": {"kind": "parameters", "ratio": 0.25}})
    service.wait(job["id"])
    service.download(job["id"], Path("smaller"))
"""

from sglp_client.errors import (
    BadKey,
    DownloadDamaged,
    JobFailed,
    NothingToDownload,
    NotUploadable,
    SGLPProblem,
    UserError,
)
from sglp_client.resources import (
    ApiKey,
    Artifact,
    Deletion,
    Event,
    Job,
    JobError,
    Json,
    Progress,
    QueuePlace,
    Quotas,
    Tenant,
    Upload,
    WebhookDelivery,
    WebhookEndpoint,
)
from sglp_client.sdk import SGLP

__all__ = [
    "SGLP",
    "ApiKey",
    "Artifact",
    "BadKey",
    "Deletion",
    "DownloadDamaged",
    "Event",
    "Job",
    "JobError",
    "JobFailed",
    "Json",
    "NotUploadable",
    "NothingToDownload",
    "Progress",
    "QueuePlace",
    "Quotas",
    "SGLPProblem",
    "Tenant",
    "Upload",
    "UserError",
    "WebhookDelivery",
    "WebhookEndpoint",
]
