"""Publish what a job has made, and push it to the destination that its tenant chose."""

import structlog

from jobs.artifacts import ArtifactStore, InsufficientStorage, StorageUnavailable
from jobs.locations.destinations import Destination
from jobs.repository import Outcome, PublishedArtifact
from jobs.results import summary_of
from jobs.settings import Settings
from worker.results.publish import Publication
from worker.results.push import Push, PushForbidden
from worker.supervision.endings import Ending, failed, waiting_for_store
from worker.supervision.finished_results import Finished
from worker.supervision.lease import Lease
from worker.supervision.transfers import Transfers

log = structlog.get_logger(__name__)


class Publisher:
    """Ends one job with its result. `destination` is where its `output.uri` lies, None where it has none."""

    def __init__(
        self,
        settings: Settings,
        store: ArtifactStore,
        lease: Lease,
        transfers: Transfers,
        destination: Destination | None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._lease = lease
        self._transfers = transfers
        self._destination = destination

    def publish(self, finished: Finished) -> Ending:
        """Publish the files; the job waits where the store does not take them.

        Raises `UntrustedFile` for files that have changed, and `EndedEarly` where it had to stop before.
        """
        claim, retry_seconds = self._lease.claim, self._settings.artifact_patience_seconds
        prefix = f"jobs/{claim.job_id}/{claim.fence}"
        publication = Publication(self._store, finished.collected, prefix, retry_seconds)
        try:
            artifacts = self._transfers.finish(publication, "publishing")
        except (StorageUnavailable, InsufficientStorage) as error:
            log.warning("the result could not be published and waits on this disk", error=str(error))
            return waiting_for_store(self._lease, self._settings)
        return self._push_and_succeed(finished, artifacts)

    def _push_and_succeed(self, finished: Finished, artifacts: list[PublishedArtifact]) -> Ending:
        claim, uri = self._lease.claim, self._lease.claim.spec.output.uri
        result = summary_of(finished.collected.report)
        if self._destination is not None and uri is not None:
            seconds = self._settings.artifact_patience_seconds
            push = Push(uri, self._destination, finished.collected.folder, artifacts, seconds)
            try:
                pushed = self._transfers.finish(push, "publishing")
            except (PushForbidden, StorageUnavailable, InsufficientStorage) as error:
                return self._not_pushed(uri, error, artifacts)
            result["output"] = pushed.model_dump(exclude_none=True)
        facts, analysis = finished.facts, finished.collected.analysis
        outcome = Outcome(result, facts.get("plan"), facts.get("resolved"), artifacts, analysis)
        return lambda jobs: jobs.succeed(
            claim.job_id, claim.fence, outcome, retention_days=self._settings.artifact_retention_days
        )

    def _not_pushed(self, uri: str, error: Exception, artifacts: list[PublishedArtifact]) -> Ending:
        """The result is published although it could not be pushed."""
        codes = {PushForbidden: "source_forbidden", InsufficientStorage: "insufficient_storage"}
        return failed(
            self._lease,
            codes.get(type(error), "storage_unavailable"),
            f"the result was not pushed to {uri}: {error}",
            artifacts=artifacts,
            retention_days=self._settings.artifact_retention_days,
        )
