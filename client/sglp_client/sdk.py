"""The service as Python calls: every method is one request, except `wait`, `download` and `upload`, which take more."""

import hashlib
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

TERMINAL = {"succeeded", "failed", "cancelled"}
# A long poll that is short enough for the caller to look around in between.
LOOK_SECONDS = 2
PAUSE_SECONDS = 0.5
SHORTEST_SECONDS = 0.1
PATIENCE_SECONDS = 60.0
COMPLETE_SECONDS = 90.0
UNAVAILABLE = {429, 502, 503, 504}
CHUNK_BYTES = 1 << 20

Json = dict[str, Any]
Rows = list[Json]


class SGLPProblem(Exception):
    """The service's answer to a request it refused: `problem` is its problem+json, `status` the HTTP status."""

    def __init__(self, problem: Json) -> None:
        self.problem = problem
        self.status: int = problem.get("status", 0)
        details = [problem.get("detail") or problem.get("title") or "the request was refused"]
        details += [
            f"{error.get('pointer', error.get('parameter'))}: {error['detail']}"
            for error in problem.get("errors", [])
            # Where there is one thing wrong, it is often said already.
            if error["detail"] not in details[0]
        ]
        super().__init__("; ".join(details))


class BadKey(ValueError):
    """The API key cannot be sent; the message does not repeat it."""


class DownloadDamaged(Exception):
    """A downloaded file is not the one the service published."""


class NothingToDownload(Exception):
    """The job has no artifacts: it has not succeeded, or not yet."""


class SGLP:
    """A client of one service; usable as a context manager. Raises `SGLPProblem`, and httpx's errors of transport.

    `api_key` is taken from the environment variable SGLP_API_KEY where it is not given.
    """

    def __init__(self, base_url: str, *, api_key: str | None = None, timeout: float = 30.0) -> None:
        key = (api_key or os.environ.get("SGLP_API_KEY", "")).strip()
        if not (key.isascii() and key.isprintable()):
            raise BadKey("the API key has characters that no key has")
        # httpx leaves this header out where a download is redirected to another host.
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Create a job from a job specification, for instance `{"model": {"uri": …}, "target": {…}}`.

        The request is sent again where the connection breaks; its key makes one job of it. Give a key of your own to
        make one job however often you call.
        """
        return self._post_once("/v1/jobs", idempotency_key, json=dict(spec))

    def retry(self, job_id: str, *, idempotency_key: str | None = None) -> Json:
        """Submit a job again that has ended; the new job."""
        return self._post_once(_path(job_id, "retry"), idempotency_key)

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, and its files."""
        _raise_for(self._http.request("DELETE", _path(job_id)))

    def get(self, job_id: str) -> Json:
        return self._json("GET", _path(job_id))

    def list(
        self, *, limit: int = 20, status: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Iterator[Json]:
        """All jobs, newest first, fetched page by page; `metadata` chooses those with these texts in theirs."""
        query: Json = {"limit": limit} | ({"status": status} if status else {})
        query |= {f"metadata[{name}]": text for name, text in (metadata or {}).items()}
        while True:
            page = self._json("GET", "/v1/jobs", params=query)
            yield from page["data"]
            if not page["has_more"]:
                return
            query["after"] = page["next_cursor"]

    def events(self, job_id: str, after: int = 0) -> Iterator[Json]:
        """The job's events so far with a sequence number above `after`, fetched page by page."""
        while True:
            page = self._json("GET", _path(job_id, "events"), params={"after": after})
            yield from page["data"]
            if not page["has_more"]:
                return
            after = page["data"][-1]["seq"]

    def cancel(self, job_id: str) -> Json:
        return self._json("POST", _path(job_id, "cancel"))

    def upload(
        self,
        files: Sequence[Path],
        *,
        kind: str,
        name: str | None = None,
        on_bytes: Callable[[int], None] = lambda _more: None,
    ) -> Json:
        """Send files as one upload that jobs can read: `model` or `dataset`; its `uri` is what a job names.

        `on_bytes` is called with the number of bytes that have gone out since the last call. Where it fails half-way,
        what was sent is deleted.
        """
        declared = [{"name": file.name, "size_bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files]
        wanted = {"name": name or files[0].name, "kind": kind, "files": declared}
        upload = self._json("POST", "/v1/uploads", json=wanted)
        try:
            sources = {file.name: file for file in files}
            for file in upload["files"]:
                self._send(file, sources[file["name"]], on_bytes)
            # Files are read back for it, for up to half a minute.
            return self._json("POST", upload["links"]["complete"], timeout=COMPLETE_SECONDS)
        except BaseException:
            with suppress(httpx.HTTPError, SGLPProblem):
                self.delete_upload(upload["id"])
            raise

    def uploads(self) -> Iterator[Json]:
        """All uploads, newest first, fetched page by page."""
        query: Json = {}
        while True:
            page = self._json("GET", "/v1/uploads", params=query)
            yield from page["data"]
            if not page["has_more"]:
                return
            query["after"] = page["next_cursor"]

    def delete_upload(self, upload_id: str) -> None:
        """Delete an upload that no job is reading."""
        _raise_for(self._http.delete(f"/v1/uploads/{quote(upload_id, safe='')}"))

    def create_key(
        self, tenant: str, name: str, scopes: Sequence[str], *, expires_in_seconds: int | None = None
    ) -> Json:
        """A new API key; `key` of the answer is the key itself, and nothing shows it again."""
        wanted = {"tenant": tenant, "name": name, "scopes": list(scopes), "expires_in_seconds": expires_in_seconds}
        return self._json("POST", "/v1/admin/keys", json=wanted)

    def keys(self, *, tenant: str | None = None) -> Iterator[Json]:
        """All API keys without their secrets, newest first, fetched page by page."""
        query: Json = {"tenant": tenant} if tenant else {}
        while True:
            page = self._json("GET", "/v1/admin/keys", params=query)
            yield from page["data"]
            if not page["has_more"]:
                return
            query["after"] = page["next_cursor"]

    def revoke_key(self, key_id: str) -> None:
        _raise_for(self._http.delete(f"/v1/admin/keys/{quote(key_id, safe='')}"))

    def create_webhook(self, url: str, event_types: Sequence[str] | None = None) -> Json:
        """A new webhook endpoint, by default for every event; `secret` of the answer is never shown again."""
        wanted: Json = {"url": url} | ({"event_types": list(event_types)} if event_types else {})
        return self._json("POST", "/v1/webhook-endpoints", json=wanted)

    def webhooks(self) -> Rows:
        """All webhook endpoints without their secrets, oldest first."""
        return self._json("GET", "/v1/webhook-endpoints")["data"]

    def delete_webhook(self, endpoint_id: str) -> None:
        _raise_for(self._http.delete(_endpoint_path(endpoint_id)))

    def rotate_webhook(self, endpoint_id: str) -> Json:
        """The endpoint with a new `secret`; for 24 hours deliveries are signed with the old one, too."""
        return self._json("POST", _endpoint_path(endpoint_id, "rotate-secret"))

    def webhook_deliveries(self, endpoint_id: str, *, limit: int = 20) -> Rows:
        """The newest deliveries of an endpoint, with what came of them."""
        return self._json("GET", _endpoint_path(endpoint_id, "deliveries"), params={"limit": limit})["data"]

    def redeliver_webhook(self, delivery_id: str) -> Json:
        """Send a delivery again, under the same `webhook-id`."""
        return self._json("POST", f"/v1/webhook-deliveries/{quote(delivery_id, safe='')}/redeliver")

    def wait(
        self,
        job_id: str,
        on_update: Callable[[Json], None] = lambda _job: None,
        *,
        on_poll: Callable[[], None] = lambda: None,
    ) -> Json:
        """The job once it has ended. `on_update` is called with it whenever it has changed, `on_poll` before each look.

        The service answers as soon as there is news. One that does not answer for up to `PATIENCE_SECONDS` is waited
        for: the job goes on without it.
        """
        headers = {"Prefer": f"wait={LOOK_SECONDS}"}
        give_up = time.monotonic() + PATIENCE_SECONDS
        job: Json = {"status": None}
        while job["status"] not in TERMINAL:
            on_poll()
            asked_at = time.monotonic()
            try:
                response = self._http.get(_path(job_id), headers=headers)
                if response.status_code != httpx.codes.NOT_MODIFIED:
                    _raise_for(response)
                    job = response.json()
                    headers["If-None-Match"] = response.headers.get("ETag", "")
                    on_update(job)
            except (httpx.TransportError, httpx.HTTPStatusError, SGLPProblem) as error:
                if _is_final(error) or time.monotonic() >= give_up:
                    raise
                time.sleep(PAUSE_SECONDS)
                continue
            give_up = time.monotonic() + PATIENCE_SECONDS
            if job["status"] not in TERMINAL:
                # What stands in between may keep an answer from being waited for.
                time.sleep(max(0.0, SHORTEST_SECONDS - (time.monotonic() - asked_at)))
        return job

    def report(self, job_id: str) -> Json:
        return self._json("GET", _path(job_id, "report"), headers={"Accept": "application/json"})

    def similarity(self, job_id: str) -> Json:
        """Layer names, matrix, segments, estimator and number of samples."""
        return self._json("GET", _path(job_id, "similarity"), headers={"Accept": "application/json"})

    def artifacts(self, job_id: str) -> Rows:
        return self._json("GET", _path(job_id, "artifacts"))["data"]

    def download(self, job_id: str, directory: Path) -> Path:
        """Every artifact of the job below `directory`, each checked by its sha256 before it gets its name."""
        artifacts = self.artifacts(job_id)
        if not artifacts:
            raise NothingToDownload(f"{job_id} has published nothing; it is {self.get(job_id)['status']}")
        for artifact in artifacts:
            target = directory / artifact["name"]
            if not target.resolve().is_relative_to(directory.resolve()):
                raise DownloadDamaged(f"{artifact['name']} would lie outside {directory}")
            self._download(job_id, artifact["name"], artifact["sha256"], target)
        return directory

    def _send(self, file: Json, source: Path, on_bytes: Callable[[int], None]) -> None:
        """To the store where it signs, without the key, else to the service."""
        where = self._json("POST", f"{file['link']}/address")
        # A store wants to know the length, which httpx tells of no stream by itself.
        headers = {"Content-Length": str(file["size_bytes"])}
        chunks = _chunks(source, on_bytes)
        if where["signed"]:
            response = httpx.put(where["url"], content=chunks, headers=headers, timeout=self._http.timeout)
        else:
            response = self._http.put(where["url"], content=chunks, headers=headers)
        _raise_for(response)

    def _download(self, job_id: str, name: str, sha256: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        unchecked = target.with_name(f"{target.name}.part")
        digest = hashlib.sha256()
        try:
            with (
                self._http.stream("GET", _path(job_id, "artifacts", name), follow_redirects=True) as response,
                unchecked.open("wb") as file,
            ):
                _raise_for(response)
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != sha256:
                raise DownloadDamaged(f"{name}: expected sha256 {sha256}, received {digest.hexdigest()}")
            unchecked.replace(target)
        finally:
            unchecked.unlink(missing_ok=True)

    def _post_once(self, path: str, key: str | None, **request: Any) -> Json:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._json("POST", path, headers=headers, **request)
            except (httpx.TransportError, httpx.HTTPStatusError, SGLPProblem) as error:
                # A service that is not there at all is told at once, and so is a quota; one that broke off may have
                # made the job.
                refused = isinstance(error, SGLPProblem) and error.status == httpx.codes.TOO_MANY_REQUESTS
                gone = isinstance(error, httpx.ConnectError)
                if refused or gone or _is_final(error) or time.monotonic() >= give_up:
                    raise
                time.sleep(PAUSE_SECONDS)

    def _json(self, method: str, path: str, **request: Any) -> Json:
        response = self._http.request(method, path, **request)
        _raise_for(response)
        return response.json()


def _is_final(error: Exception) -> bool:
    """Whether asking again will not help: an answer that does not come from a service that is down for a moment."""
    if isinstance(error, SGLPProblem):
        return error.status not in UNAVAILABLE
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in UNAVAILABLE


def _path(job_id: str, *rest: str) -> str:
    return "/".join(["/v1/jobs", quote(job_id, safe=""), *map(quote, rest)])


def _endpoint_path(endpoint_id: str, *rest: str) -> str:
    return "/".join(["/v1/webhook-endpoints", quote(endpoint_id, safe=""), *rest])


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _chunks(file: Path, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            yield chunk
            on_bytes(len(chunk))


def _raise_for(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    if response.headers.get("content-type", "").startswith("application/problem+json"):
        raise SGLPProblem(response.json())
    response.raise_for_status()
