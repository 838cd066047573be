"""The service as Python calls: every method is one request, except `wait`, `download` and `upload`, which send more."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx

from sglp_client.connection import (
    REQUEST_ERRORS,
    RETRY_PAUSE_SECONDS,
    UNAVAILABLE_SECONDS,
    Connection,
    is_final,
    raise_for_problem,
)
from sglp_client.errors import DownloadDamaged, NothingToDownload, SGLPProblem
from sglp_client.resources import (
    ApiKey,
    Artifact,
    Event,
    Job,
    Json,
    Listing,
    Page,
    Tenant,
    Upload,
    UploadKind,
    WebhookDelivery,
    WebhookEndpoint,
)
from sglp_client.transfers import receive_file, send_file, sha256_of

TERMINAL = {"succeeded", "failed", "cancelled"}
# One long poll of `wait`; short, so that `on_poll` is called often.
POLL_SECONDS = 2
SHORTEST_POLL_SECONDS = 0.1
# The service reads an upload's files back before it answers, for up to half a minute.
COMPLETE_SECONDS = 90.0

# The method `SGLP.list` hides the built-in type in the annotations of that class.
Artifacts = list[Artifact]
Deliveries = list[WebhookDelivery]
Endpoints = list[WebhookEndpoint]


class SGLP:
    """A client of one service; usable as a context manager.

    Raises `BadKey` for a key that cannot be sent, `SGLPProblem` where the service refuses a request, and httpx's
    errors where it cannot be reached.

    `api_key` is by default the environment variable SGLP_API_KEY; `timeout` is in seconds, for one request.
    """

    def __init__(self, base_url: str, *, api_key: str | None = None, timeout: float = 30.0) -> None:
        self._connection = Connection(base_url, api_key, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.http.close()

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Create a job from a job specification, for instance `{"model": {"uri": …}, "target": {…}}`.

        If the connection breaks, the request is sent again with the same idempotency key, so that it creates one job.
        Pass a key of your own to create one job however often you call.
        """
        return self._connection.create_job("/v1/jobs", idempotency_key, json=dict(spec))

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Job:
        """Submit a job that has ended again; returns the new job."""
        return self._connection.create_job(_path(job_id, "retry"), idempotency_key)

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, and its files."""
        self._connection.delete(_path(job_id))

    def get(self, job_id: str) -> Job:
        """The job as it is now."""
        return self._connection.call(Job, "GET", _path(job_id))

    def list(
        self, *, limit: int = 20, status: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Iterator[Job]:
        """All jobs, newest first, `limit` in one request; `metadata` selects those whose metadata has these values."""
        query: Json = {"limit": limit} | ({"status": status} if status else {})
        query |= {f"metadata[{name}]": text for name, text in (metadata or {}).items()}
        return self._connection.pages(Page[Job], "/v1/jobs", query)

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """The job's events so far with a sequence number above `after`."""
        while True:
            page = self._connection.call(Page[Event], "GET", _path(job_id, "events"), params={"after": after})
            yield from page["data"]
            if not page["has_more"]:
                return
            after = page["data"][-1]["seq"]

    def cancel(self, job_id: str) -> Job:
        """Ask the service to end the job; it may still be `cancelling` in the answer."""
        return self._connection.call(Job, "POST", _path(job_id, "cancel"))

    def upload(
        self,
        files: Sequence[Path],
        *,
        kind: UploadKind,
        name: str | None = None,
        on_bytes: Callable[[int], None] = lambda _more: None,
    ) -> Upload:
        """Send files as one upload that jobs can read by its `uri`.

        `on_bytes` is called with the number of bytes sent since the last call. If sending fails, the upload is
        deleted.
        """
        declared = [{"name": file.name, "size_bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in files]
        declaration = {"name": name or files[0].name, "kind": kind, "files": declared}
        upload = self._connection.call(Upload, "POST", "/v1/uploads", json=declaration)
        try:
            sources = {file.name: file for file in files}
            for file in upload["files"]:
                send_file(self._connection, file, sources[file["name"]], on_bytes)
            return self._connection.call(Upload, "POST", upload["links"]["complete"], timeout=COMPLETE_SECONDS)
        except BaseException:
            with suppress(httpx.HTTPError, SGLPProblem):
                self.delete_upload(upload["id"])
            raise

    def uploads(self) -> Iterator[Upload]:
        """All uploads, newest first."""
        return self._connection.pages(Page[Upload], "/v1/uploads", {})

    def delete_upload(self, upload_id: str) -> None:
        """Delete an upload that no job is reading."""
        self._connection.delete(f"/v1/uploads/{quote(upload_id, safe='')}")

    def create_tenant(self, name: str, **quotas: float) -> Tenant:
        """A new tenant; a quota of `Quotas` that is left out is no limit."""
        return self._connection.call(Tenant, "POST", "/v1/admin/tenants", json={"name": name, "quotas": quotas})

    def tenants(self) -> Iterator[Tenant]:
        """All tenants by name."""
        return self._connection.pages(Page[Tenant], "/v1/admin/tenants", {})

    def set_quotas(self, tenant: str, **quotas: float) -> Tenant:
        """Replace all quotas of a tenant; a quota of `Quotas` that is left out is no limit."""
        return self._connection.call(Tenant, "PUT", _tenant_path(tenant, "quotas"), json=quotas)

    def delete_tenant(self, name: str) -> Tenant:
        """Delete a tenant with all it has, or ask again; `deletion` of the answer says what is left."""
        return self._connection.call(Tenant, "DELETE", _tenant_path(name))

    def create_key(
        self, tenant: str, name: str, scopes: Sequence[str], *, expires_in_seconds: int | None = None
    ) -> ApiKey:
        """A new API key; `key` of the answer is the key itself, which is never shown again."""
        declaration = {"tenant": tenant, "name": name, "scopes": [*scopes], "expires_in_seconds": expires_in_seconds}
        return self._connection.call(ApiKey, "POST", "/v1/admin/keys", json=declaration)

    def keys(self, *, tenant: str | None = None) -> Iterator[ApiKey]:
        """All API keys without the keys themselves, newest first."""
        return self._connection.pages(Page[ApiKey], "/v1/admin/keys", {"tenant": tenant} if tenant else {})

    def revoke_key(self, key_id: str) -> None:
        """Revoke an API key for good."""
        self._connection.delete(f"/v1/admin/keys/{quote(key_id, safe='')}")

    def create_webhook(self, url: str, event_types: Sequence[str] | None = None) -> WebhookEndpoint:
        """A new webhook endpoint, by default for every event; `secret` of the answer is never shown again."""
        declaration: Json = {"url": url} | ({"event_types": [*event_types]} if event_types else {})
        return self._connection.call(WebhookEndpoint, "POST", "/v1/webhook-endpoints", json=declaration)

    def webhooks(self) -> Endpoints:
        """All webhook endpoints without their secrets, oldest first."""
        return self._connection.call(Listing[WebhookEndpoint], "GET", "/v1/webhook-endpoints")["data"]

    def delete_webhook(self, endpoint_id: str) -> None:
        """Delete a webhook endpoint; deliveries that were not sent yet are dropped."""
        self._connection.delete(_endpoint_path(endpoint_id))

    def rotate_webhook(self, endpoint_id: str) -> WebhookEndpoint:
        """The endpoint with a new `secret`; for 24 hours deliveries are signed with the old one, too."""
        return self._connection.call(WebhookEndpoint, "POST", _endpoint_path(endpoint_id, "rotate-secret"))

    def webhook_deliveries(self, endpoint_id: str, *, limit: int = 20) -> Deliveries:
        """The newest deliveries of an endpoint, with their outcomes."""
        path = _endpoint_path(endpoint_id, "deliveries")
        return self._connection.call(Listing[WebhookDelivery], "GET", path, params={"limit": limit})["data"]

    def redeliver_webhook(self, delivery_id: str) -> WebhookDelivery:
        """Send a delivery again, under the same `webhook-id`."""
        path = f"/v1/webhook-deliveries/{quote(delivery_id, safe='')}/redeliver"
        return self._connection.call(WebhookDelivery, "POST", path)

    def wait(
        self,
        job_id: str,
        on_update: Callable[[Job], None] = lambda _job: None,
        *,
        on_poll: Callable[[], None] = lambda: None,
    ) -> Job:
        """Wait until the job has ended, and return it.

        `on_update` is called with the job whenever it has changed, `on_poll` before every request. A service that is
        unavailable for less than `UNAVAILABLE_SECONDS` is no error: the job runs on without it.
        """
        headers = {"Prefer": f"wait={POLL_SECONDS}"}
        give_up = time.monotonic() + UNAVAILABLE_SECONDS
        while True:
            on_poll()
            asked_at = time.monotonic()
            try:
                response = self._connection.http.get(_path(job_id), headers=headers)
                if response.status_code != httpx.codes.NOT_MODIFIED:
                    raise_for_problem(response)
                    job = cast(Job, response.json())
                    on_update(job)
                    headers["If-None-Match"] = response.headers.get("ETag", "")
                    if job["status"] in TERMINAL:
                        return job
            except REQUEST_ERRORS as error:
                if is_final(error) or time.monotonic() >= give_up:
                    raise
                time.sleep(RETRY_PAUSE_SECONDS)
                continue
            give_up = time.monotonic() + UNAVAILABLE_SECONDS
            # A proxy may answer at once instead of waiting for news.
            time.sleep(max(0.0, SHORTEST_POLL_SECONDS - (time.monotonic() - asked_at)))

    def report(self, job_id: str) -> Json:
        """The job's report, as its `report.json` has it."""
        return self._connection.call(Json, "GET", _path(job_id, "report"), headers={"Accept": "application/json"})

    def similarity(self, job_id: str) -> Json:
        """Layer names, similarity matrix, segments, estimator and number of samples."""
        return self._connection.call(Json, "GET", _path(job_id, "similarity"), headers={"Accept": "application/json"})

    def artifacts(self, job_id: str) -> Artifacts:
        """The files that the job has published."""
        return self._connection.call(Listing[Artifact], "GET", _path(job_id, "artifacts"))["data"]

    def download(self, job_id: str, directory: Path) -> Path:
        """Write every artifact of the job below `directory`, and return it.

        A file gets its name once its sha256 is checked. Raises `NothingToDownload` and `DownloadDamaged`.
        """
        artifacts = self.artifacts(job_id)
        if not artifacts:
            raise NothingToDownload(f"{job_id} has published nothing; it is {self.get(job_id)['status']}")
        for artifact in artifacts:
            target = directory / artifact["name"]
            if not target.resolve().is_relative_to(directory.resolve()):
                raise DownloadDamaged(f"{artifact['name']} would lie outside {directory}")
            path = _path(job_id, "artifacts", artifact["name"])
            receive_file(self._connection, path, artifact["sha256"], target)
        return directory


def _path(job_id: str, *rest: str) -> str:
    return "/".join(["/v1/jobs", quote(job_id, safe=""), *map(quote, rest)])


def _tenant_path(name: str, *rest: str) -> str:
    return "/".join(["/v1/admin/tenants", quote(name, safe=""), *rest])


def _endpoint_path(endpoint_id: str, *rest: str) -> str:
    return "/".join(["/v1/webhook-endpoints", quote(endpoint_id, safe=""), *rest])
