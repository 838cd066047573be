"""Publish what a job has made, and push it to the destination that its tenant chose."""

from pathlib import Path

from jobs.artifacts import ArtifactStore, InsufficientStorage, StorageUnavailable
from jobs.locations.destinations import Destination
from jobs.repository import Outcome, PublishedArtifact
from jobs.results import summary_of
from jobs.settings import Settings
from worker.results.collect import Collected, collect
from worker.results.publish import Publication
from worker.results.push import Push, PushForbidden
from worker.supervision.endings import Ending, failed
from worker.supervision.lease import Lease
from worker.supervision.transfers import Transfers
from worker.untrusted_files import UntrustedFile


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

    def publish(self, output: Path, directory: Path) -> Ending:
        """Publish the files that the job has written to `output`. Raises `EndedEarly` where it had to stop before."""
        try:
            collected = collect(output, directory / "collected", self._settings.output_max_bytes)
        except UntrustedFile as error:
            return failed(self._lease, "internal", f"the result was not published: {error}")
        claim, retry_seconds = self._lease.claim, self._settings.artifact_patience_seconds
        publication = Publication(self._store, collected, f"jobs/{claim.job_id}/{claim.fence}", retry_seconds)
        try:
            artifacts = self._transfers.finish(publication, "publishing")
        except InsufficientStorage as error:
            return failed(self._lease, "insufficient_storage", str(error))
        except StorageUnavailable as error:
            return failed(self._lease, "storage_unavailable", str(error))
        return self._push_and_succeed(collected, artifacts)

    def _push_and_succeed(self, collected: Collected, artifacts: list[PublishedArtifact]) -> Ending:
        claim, uri = self._lease.claim, self._lease.claim.spec.output.uri
        result = summary_of(collected.report)
        if self._destination is not None and uri is not None:
            seconds = self._settings.artifact_patience_seconds
            push = Push(uri, self._destination, collected.folder, artifacts, seconds)
            try:
                pushed = self._transfers.finish(push, "publishing")
            except (PushForbidden, StorageUnavailable, InsufficientStorage) as error:
                return self._not_pushed(uri, error, artifacts)
            result["output"] = pushed.model_dump(exclude_none=True)
        facts = self._lease.facts
        outcome = Outcome(result, facts.get("plan"), facts.get("resolved"), artifacts, collected.analysis)
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
