"""One job from claim to end: claim it, run the method in a child process, keep the lease, publish what comes out.

Database transactions are short, and none is open across a process or network call.
"""

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore, InsufficientStorage, StorageUnavailable
from jobs.database import transaction
from jobs.errors import JobError
from jobs.locations.destinations import Destination, destination_of
from jobs.locations.uris import ForbiddenURI, place_of, upload_id_of
from jobs.observability.tracing import Span, span_of
from jobs.repository import Claim, ClaimRepository, Outcome, PublishedArtifact, missing_code
from jobs.results import summary_of
from jobs.settings import Settings
from worker.results.publish import Publication, read_analysis
from worker.results.push import Push, PushForbidden
from worker.sources.access import DownloadLimits
from worker.sources.uploads import COPIES, Fetch, UploadDamaged, as_named, made_local
from worker.supervision.child_process import ChildProcess
from worker.supervision.lease import Lease, Stop
from worker.supervision.messages import (
    ChildMessage,
    ChildRequest,
    ErrorMessage,
    FinishedMessage,
    PlanMessage,
    ProgressMessage,
    ResolvedMessage,
    TraceTarget,
)
from worker.workspace import remove_abandoned, workspace

TICK_SECONDS = 0.25

log = structlog.get_logger(__name__)
Ending = Callable[[ClaimRepository], bool]


class Unprepared(Exception):
    """A job that ended, or was lost, before its method began; `ending` is how, as `_supervise` tells it."""

    def __init__(self, ending: Ending | None) -> None:
        self.ending = ending
        super().__init__("the job ended before its method began")


class Supervisor:
    """Runs jobs one after the other; `shut_down` may be called from a signal handler while one runs."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], store: ArtifactStore) -> None:
        self._settings = settings
        self._sessions = sessions
        self._store = store
        self._shutting_down = False

    def shut_down(self) -> None:
        """Claim nothing more, and give back the running job."""
        self._shutting_down = True

    def run(self, job_id: str) -> None:
        """Run a job if it waits for a worker of this class; a hint that came twice or too late does nothing."""
        # Before the claim: it may take long, and no heartbeat goes out meanwhile.
        remove_abandoned(self._settings.work_dir)
        claim = None if self._shutting_down else self._claim(job_id)
        if claim is None:
            return
        names = {"job_id": job_id, "attempt": claim.attempt, "fence": claim.fence}
        with span_of("attempt", claim.traceparent, **names) as span:
            if span.trace_id:
                names["trace_id"] = span.trace_id
            with structlog.contextvars.bound_contextvars(**names):
                self._run(claim, span)

    def _run(self, claim: Claim, span: Span) -> None:
        log.info("an attempt starts", gpu_class=self._settings.gpu_class)
        lease = Lease(self._sessions, claim, self._settings.lease_seconds)
        try:
            with workspace(self._settings.work_dir, claim.job_id) as directory:
                ending = self._supervise(lease, directory, span)
                if ending is None:
                    log.warning("the lease was lost; nothing is written")
                else:
                    # While the folder is still there: removing it may take longer than the lease lasts.
                    lease.write(ending)
        except Exception:
            # Most likely this machine is at fault, not the job: its lease runs out, and another worker may do better.
            log.exception("supervision failed")

    def _claim(self, job_id: str) -> Claim | None:
        with transaction(self._sessions) as session:
            return ClaimRepository(session).claim(
                job_id,
                worker=f"{socket.gethostname()}:{os.getpid()}",
                gpu_class=self._settings.gpu_class,
                lease_seconds=self._settings.lease_seconds,
            )

    def _supervise(self, lease: Lease, directory: Path, span: Span) -> Ending | None:
        """How the job ended, to be written after `directory` is gone; None where it is not ours to write."""
        try:
            destination = self._destination(lease)
            places = self._fetch(lease, directory)
        except Unprepared as unprepared:
            return unprepared.ending
        child = ChildProcess(self._request(lease, span, directory, places), directory, self._credentials(lease))
        try:
            last = self._watch(child, lease)
        finally:
            status = child.close()
        log.info("the child ended", status=status)
        if isinstance(last, FinishedMessage) and status == 0 and not lease.stop:
            return self._publish(lease, child.output, destination)
        return self._unfinished(lease, child, last, status, lambda message: as_named(message, places, directory))

    def _unfinished(
        self, lease: Lease, child: ChildProcess, last: ChildMessage | None, status: int, told: Callable[[str], str]
    ) -> Ending | None:
        if lease.stop:
            return _stopped(lease)
        log.warning("the end of the child's log", text=child.log_tail())
        if isinstance(last, ErrorMessage):
            return _failed(lease, last.error.code, told(last.error.message))
        if self._shutting_down:
            return _released(lease)
        if status == -9:
            return _failed(lease, "out_of_memory", "the job's process was killed, most likely for want of memory")
        return _failed(lease, "internal", f"the job's process ended unexpectedly with status {status}")

    def _destination(self, lease: Lease) -> Destination | None:
        """Where the result is to be pushed, if anywhere; refused now, not after the work. Raises `Unprepared`."""
        uri = lease.claim.spec.output.uri
        if uri is None:
            return None
        try:
            return destination_of("/output/uri", uri, self._settings.output_destinations, lease.claim.tenant)
        except ForbiddenURI as error:
            raise Unprepared(_failed(lease, "source_forbidden", str(error))) from error

    def _fetch(self, lease: Lease, directory: Path) -> dict[str, str]:
        """Where in the workspace the uploads of the job now lie, by their URIs. Raises `Unprepared`."""
        claim = lease.claim
        codes = {uri: missing_code(pointer) for pointer, uri in claim.spec.uris().items() if upload_id_of(uri)}
        for uri, code in codes.items():
            if uri not in claim.uploads:
                raise Unprepared(_failed(lease, code, f"there is no upload {upload_id_of(uri)}"))
        if not codes:
            return {}
        fetch = Fetch(self._store, claim.uploads, directory, self._settings.artifact_patience_seconds)
        if not self._finishes(fetch, lease, "fetching"):
            raise Unprepared(_stopped(lease) if lease.stop else _released(lease))
        try:
            return fetch.result()
        except UploadDamaged as error:
            raise Unprepared(_failed(lease, codes[error.uri], str(error))) from error
        except StorageUnavailable as error:
            raise Unprepared(_failed(lease, "storage_unavailable", str(error))) from error
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise Unprepared(_failed(lease, "insufficient_storage", "the worker's disk is full")) from error

    def _finishes(self, work: Fetch | Publication | Push, lease: Lease, phase: str) -> bool:
        """Start the work and wait for its end with the lease kept; False where it was told to stop before."""
        work.start()
        give_up_at: float | None = None
        while work.is_alive():
            lease.tell_progress(phase, work.done_bytes, work.total_bytes, "bytes")
            lease.renew()
            if self._shutting_down and give_up_at is None:
                give_up_at = time.monotonic() + self._settings.cancel_grace_seconds
            if lease.stop or (give_up_at and time.monotonic() >= give_up_at):
                work.stopping.set()
                return False
            work.join(TICK_SECONDS)
        return True

    def _request(self, lease: Lease, span: Span, directory: Path, paths: dict[str, str]) -> ChildRequest:
        settings = self._settings
        return ChildRequest(
            spec=made_local(lease.claim.spec, paths),
            roots=(*settings.model_roots, *([directory / COPIES] if paths else [])),
            cache=settings.cache_dir.absolute(),
            limits=DownloadLimits(
                max_bytes=settings.source_max_bytes,
                max_files=settings.source_max_files,
                seconds=settings.source_seconds,
                cache_bytes=settings.source_cache_bytes,
            ),
            hosts=tuple(place for place in settings.sources if place.startswith("https://")),
            networks=tuple(str(network) for network in settings.egress_allowed_networks),
            memory_bytes=settings.job_memory_bytes,
            trace=TraceTarget(endpoint=settings.otlp_endpoint, parent=span.traceparent),
        )

    def _credentials(self, lease: Lease) -> dict[str, dict[str, str]]:
        """The options of the places that this job reads, and of no other."""
        places = (place_of(uri, self._settings.sources) for uri in lease.claim.spec.uris().values())
        return {place: self._settings.sources[place] for place in places if place}

    def _watch(self, child: ChildProcess, lease: Lease) -> ChildMessage | None:
        """Follow the child to its end, and end it where it must stop; returns its last message, if any."""
        last: ChildMessage | None = None
        kill_at: float | None = None
        while True:
            # Checked before reading, so that everything the child sent before it ended is read.
            ended = child.ended()
            for last in child.messages(0 if ended else TICK_SECONDS):
                _pass_on(last, lease)
            lease.renew(at_once=ended)
            if ended:
                return last
            if lease.stop is Stop.LOST or (kill_at and time.monotonic() >= kill_at):
                child.kill()
            elif kill_at is None and (lease.stop or self._shutting_down):
                child.terminate()
                kill_at = time.monotonic() + self._settings.cancel_grace_seconds

    def _publish(self, lease: Lease, output: Path, destination: Destination | None) -> Ending | None:
        claim, patience_seconds = lease.claim, self._settings.artifact_patience_seconds
        publication = Publication(self._store, output, f"jobs/{claim.job_id}/{claim.fence}", patience_seconds)
        if not self._finishes(publication, lease, "publishing"):
            return _stopped(lease) if lease.stop else _released(lease)
        try:
            artifacts = publication.result()
        except InsufficientStorage as error:
            return _failed(lease, "insufficient_storage", str(error))
        except StorageUnavailable as error:
            return _failed(lease, "storage_unavailable", str(error))
        report, analysis = json.loads((output / "report.json").read_text()), read_analysis(output)
        result = summary_of(report)
        if destination is not None and claim.spec.output.uri is not None:
            push = Push(claim.spec.output.uri, destination, output, artifacts, patience_seconds)
            if not self._finishes(push, lease, "publishing"):
                return _stopped(lease) if lease.stop else _released(lease)
            try:
                result["output"] = push.result()
            except (PushForbidden, StorageUnavailable, InsufficientStorage) as error:
                # What the job has made is not lost for want of the place it should have gone to as well.
                return self._unpushed(lease, error, artifacts)
        outcome = Outcome(result, lease.facts.get("plan"), lease.facts.get("resolved"), artifacts, analysis)
        return lambda jobs: jobs.succeed(
            claim.job_id, claim.fence, outcome, retention_days=self._settings.artifact_retention_days
        )

    def _unpushed(self, lease: Lease, error: Exception, artifacts: list[PublishedArtifact]) -> Ending:
        codes = {PushForbidden: "source_forbidden", InsufficientStorage: "insufficient_storage"}
        message = f"the result was not pushed to {lease.claim.spec.output.uri}: {error}"
        return _failed(
            lease,
            codes.get(type(error), "storage_unavailable"),
            message,
            artifacts=artifacts,
            retention_days=self._settings.artifact_retention_days,
        )


def _pass_on(message: ChildMessage, lease: Lease) -> None:
    match message:
        case ProgressMessage(progress=progress):
            lease.tell_progress(progress.phase, progress.done, progress.total, progress.unit)
        case ResolvedMessage(resolved=resolved):
            lease.tell_fact("resolved", resolved)
        case PlanMessage(plan=plan):
            lease.tell_fact("plan", plan)


def _stopped(lease: Lease) -> Ending | None:
    if lease.stop is Stop.LOST:
        return None
    if lease.stop is Stop.CANCELLED:
        return lambda jobs: jobs.cancelled(lease.claim.job_id, lease.claim.fence)
    return _failed(lease, "deadline_exceeded", "the job did not end within its deadline_seconds")


def _released(lease: Lease) -> Ending:
    return lambda jobs: jobs.release(lease.claim.job_id, lease.claim.fence, reason="worker_shutdown")


def _failed(lease: Lease, code: str, message: str, **publish: Any) -> Ending:
    error = JobError(code=code, message=message, phase=lease.phase, attempt=lease.claim.attempt)
    return lambda jobs: jobs.fail(lease.claim.job_id, lease.claim.fence, error, **publish)
