"""One job from claim to end: claim it, run the method in a child process, keep the lease, publish the result.

Database transactions are short, and none is open during a call to another process or over the network.
"""

import errno
import os
import socket
import time
from pathlib import Path

import structlog
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore, StorageUnavailable
from jobs.database import transaction
from jobs.locations.destinations import Destination, destination_of
from jobs.locations.uris import ForbiddenURI, upload_id_of
from jobs.observability.tracing import Span, span_of
from jobs.repository import Claim, ClaimRepository, missing_code
from jobs.settings import Settings
from worker.health import WorkerHealth
from worker.sources.uploads import UploadDamaged, UploadFetch, as_named
from worker.supervision.child_process import ChildProcess
from worker.supervision.child_request import credentials_of, make_request
from worker.supervision.endings import EndedEarly, Ending, failed, released, stopped, waiting_for_store
from worker.supervision.finished_results import FinishedResults
from worker.supervision.kept_results import KeptFetch, KeptUploads
from worker.supervision.lease import Lease, Stop
from worker.supervision.messages import (
    ChildMessage,
    ChildMisbehaved,
    ErrorMessage,
    FinishedMessage,
    JudgedMessage,
    KeptMessage,
    PlanMessage,
    ProgressMessage,
    ResolvedMessage,
)
from worker.supervision.phase_spans import PhaseSpans
from worker.supervision.publishing import Publisher
from worker.supervision.transfers import TICK_SECONDS, Transfers
from worker.untrusted_files import UntrustedFile
from worker.upkeep.tenant_caches import remove_departed_caches
from worker.workspace import JobFolders, job_folders, remove_abandoned_jobs

log = structlog.get_logger(__name__)


class Supervisor:
    """Runs jobs one after the other; `shut_down` may be called from a signal handler while one runs."""

    def __init__(
        self, settings: Settings, sessions: sessionmaker[Session], store: ArtifactStore, health: WorkerHealth
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._store = store
        self._health = health
        self._finished = FinishedResults(settings, sessions)
        self._shutting_down = False

    def shut_down(self) -> None:
        """Claim no more jobs, and put the running job back in the queue."""
        self._shutting_down = True

    def run(self) -> bool:
        """Run the job whose turn it is among those that wait for a worker of this GPU class; whether there was one."""
        # Before the claim: it may take long, and there are no heartbeats meanwhile.
        remove_abandoned_jobs(self._settings)
        remove_departed_caches(self._settings, self._sessions)
        self._finished.remove_ended()
        # A job waits for a store that takes its result, rather than to lose its work.
        claim = self._claim() if not self._shutting_down and self._health.store_works() else None
        if claim is None:
            return False
        names: dict[str, str | int] = {"job_id": claim.job_id, "attempt": claim.attempt, "fence": claim.fence}
        with span_of("attempt", claim.traceparent, **names) as span:
            if span.trace_id:
                names["trace_id"] = span.trace_id
            with structlog.contextvars.bound_contextvars(**names):
                self._run(claim, span)
        return True

    def _claim(self) -> Claim | None:
        worker = f"{socket.gethostname()}:{os.getpid()}"
        gpu_class, lease_seconds = self._settings.gpu_class, self._settings.lease_seconds
        with transaction(self._sessions) as session:
            claims = ClaimRepository(session)
            # Only their results have to be published, and here is where they are.
            for job_id in self._finished.jobs():
                claim = claims.claim(job_id, worker=worker, gpu_class=gpu_class, lease_seconds=lease_seconds)
                if claim is not None:
                    return claim
            return claims.claim_next(worker=worker, gpu_class=gpu_class, lease_seconds=lease_seconds)

    def _run(self, claim: Claim, span: Span) -> None:
        log.info("an attempt starts", gpu_class=self._settings.gpu_class)
        lease = Lease(self._sessions, claim, self._settings.lease_seconds)
        try:
            with job_folders(self._settings, claim.job_id, claim.tenant) as folders:
                ending = self._supervise(lease, folders, span)
                if ending is None:
                    log.warning("the lease was lost; nothing is written")
                else:
                    # Before the folder is removed, which may take longer than the lease lasts.
                    lease.write(ending)
                    self._finished.remove_ended()
        except Exception:
            # Most likely this machine is at fault, not the job: its lease runs out, and another worker may do better.
            log.exception("supervision failed")

    def _supervise(self, lease: Lease, folders: JobFolders, span: Span) -> Ending | None:
        """How the job ended, not written yet; None where it is not ours to write."""
        transfers = Transfers(lease, self._settings.cancel_grace_seconds, lambda: self._shutting_down)
        try:
            publisher = Publisher(self._settings, self._store, lease, transfers, self._destination(lease))
            ending = self._publish_finished(lease, folders.directory, publisher)
            if ending is not None:
                return ending
            upload_paths = self._fetch_uploads(lease, transfers, folders.directory)
            self._fetch_kept_results(lease, transfers, folders.directory)
            return self._run_method(lease, folders, upload_paths, publisher, span)
        except EndedEarly as early:
            return early.ending

    def _publish_finished(self, lease: Lease, directory: Path, publisher: Publisher) -> Ending | None:
        """Publish the result of an earlier attempt, if it lies on this disk and is whole."""
        job_id = lease.claim.job_id
        finished = self._finished.find(job_id, directory)
        if finished is None:
            return None
        log.info("the result of an earlier attempt is published")
        try:
            return publisher.publish(finished)
        except UntrustedFile as error:
            log.warning("the result of an earlier attempt cannot be used", error=str(error))
            self._finished.forget(job_id)
            return None

    def _run_method(
        self, lease: Lease, folders: JobFolders, upload_paths: dict[str, str], publisher: Publisher, span: Span
    ) -> Ending | None:
        spec, directory = lease.claim.spec, folders.directory
        request = make_request(lease.claim, self._settings, folders, upload_paths)
        child = ChildProcess(request, directory, credentials_of(spec, self._settings))
        uploads = KeptUploads(self._store, lease, folders)
        try:
            with PhaseSpans(spec.mode, span) as phases:
                last = self._watch(child, lease, uploads, phases)
            misbehaviour = None
        except ChildMisbehaved as error:
            last, misbehaviour = None, str(error)
        finally:
            status = child.close()
            uploads.stop()
        log.info("the child ended", status=status)
        if isinstance(last, FinishedMessage) and status == 0 and not lease.stop:
            try:
                return publisher.publish(self._finished.keep(lease.claim.job_id, child.output, lease.facts, directory))
            except UntrustedFile as error:
                return failed(lease, "internal", f"the result was not published: {error}")
        if lease.stop:
            return stopped(lease)
        log.warning("the end of the child's log", text=child.log_tail())
        if isinstance(last, ErrorMessage):
            return failed(lease, last.error.code, as_named(last.error.message, upload_paths, directory))
        return released(lease) if self._shutting_down else _died(lease, status, misbehaviour)

    def _destination(self, lease: Lease) -> Destination | None:
        """Where the result is pushed to, if anywhere; refused before the work, not after it. Raises `EndedEarly`."""
        uri = lease.claim.spec.output.uri
        if uri is None:
            return None
        try:
            return destination_of("/output/uri", uri, self._settings.output_destinations, lease.claim.tenant)
        except ForbiddenURI as error:
            raise EndedEarly(failed(lease, "source_forbidden", str(error))) from error

    def _fetch_uploads(self, lease: Lease, transfers: Transfers, directory: Path) -> dict[str, str]:
        """The paths below `directory` of the job's uploads, by their URIs. Raises `EndedEarly`."""
        claim = lease.claim
        codes = {uri: missing_code(pointer) for pointer, uri in claim.spec.uris().items() if upload_id_of(uri)}
        for uri, code in codes.items():
            if uri not in claim.uploads:
                raise EndedEarly(failed(lease, code, f"there is no upload {upload_id_of(uri)}"))
        if not codes:
            return {}
        fetch = UploadFetch(self._store, claim.uploads, directory, self._settings.artifact_patience_seconds)
        try:
            return transfers.finish(fetch, "fetching")
        except UploadDamaged as error:
            raise EndedEarly(failed(lease, codes[error.uri], str(error))) from error
        except StorageUnavailable as error:
            log.warning("the uploads of the job could not be fetched", error=str(error))
            raise EndedEarly(waiting_for_store(lease, self._settings)) from error
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise EndedEarly(failed(lease, "insufficient_storage", "the worker's disk is full")) from error

    def _fetch_kept_results(self, lease: Lease, transfers: Transfers, directory: Path) -> None:
        """What earlier attempts have stored, if it can be had; steps are done again otherwise. Raises `EndedEarly`."""
        claim = lease.claim
        if claim.fence == 1:
            return
        fetch = KeptFetch(self._store, claim.job_id, directory, self._settings.artifact_patience_seconds)
        try:
            found = transfers.finish(fetch, "fetching")
        except (StorageUnavailable, OSError) as error:
            log.warning("the results of earlier attempts could not be fetched", error=str(error))
            return
        if found:
            log.info("the job goes on from stored results", stored_by_fences=sorted({each.fence for each in found}))

    def _watch(
        self, child: ChildProcess, lease: Lease, uploads: KeptUploads, phases: PhaseSpans
    ) -> ChildMessage | None:
        """Follow the child to its end, and end it where it must stop; returns its last message, if any.

        Raises `ChildMisbehaved`.
        """
        last: ChildMessage | None = None
        kill_at: float | None = None
        while True:
            # Checked before reading, so that everything the child sent before it ended is read.
            ended = child.ended()
            for last in child.messages(0 if ended else TICK_SECONDS):
                if isinstance(last, KeptMessage):
                    uploads.offer(last.kept_result)
                else:
                    _record(last, lease)
                    # Of each message: a phase may be shorter than a tick.
                    phases.enter(lease.phase)
            uploads.advance()
            lease.renew(at_once=ended)
            if ended:
                return last
            if lease.stop is Stop.LOST or (kill_at and time.monotonic() >= kill_at):
                child.kill()
            elif kill_at is None and (lease.stop or self._shutting_down):
                child.terminate()
                kill_at = time.monotonic() + self._settings.cancel_grace_seconds


def _record(message: ChildMessage, lease: Lease) -> None:
    match message:
        case ProgressMessage(progress=progress):
            lease.record_progress(progress.phase, progress.done, progress.total, progress.unit)
        case ResolvedMessage(resolved=resolved):
            lease.record_fact("resolved", resolved)
        case PlanMessage(plan=plan):
            lease.record_fact("plan", plan)
        case JudgedMessage(judged=judged):
            lease.record_judgement(judged)


def _died(lease: Lease, status: int, misbehaviour: str | None) -> Ending:
    if misbehaviour is not None:
        return failed(lease, "internal", f"the job's process was ended: {misbehaviour}")
    if status == -9:
        return failed(lease, "out_of_memory", "the job's process was killed, most likely because memory ran out")
    return failed(lease, "internal", f"the job's process ended unexpectedly with status {status}")
