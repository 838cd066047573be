"""The request to a job's child process, from the claimed job and the settings of this worker."""

from collections.abc import Mapping
from pathlib import Path

from jobs.locations.uris import place_of
from jobs.repository import Claim
from jobs.settings import Settings
from jobs.spec import JobSpec
from worker.sources.access import DownloadLimits
from worker.sources.uploads import COPIES, made_local
from worker.supervision.kept_results import RECEIVED
from worker.supervision.messages import ChildRequest
from worker.workspace import JobFolders


def make_request(
    claim: Claim, settings: Settings, folders: JobFolders, upload_paths: Mapping[str, str]
) -> ChildRequest:
    """`upload_paths` maps the URIs of uploads to their copies in the job's folder. No secret is in the request."""
    directory = folders.directory
    return ChildRequest(
        spec=made_local(claim.spec, upload_paths),
        roots=(*settings.model_roots, *([directory / COPIES] if upload_paths else [])),
        downloads=settings.cache_dir.absolute(),
        links=folders.links,
        cache=folders.cache,
        limits=DownloadLimits(
            max_bytes=settings.source_max_bytes,
            max_files=settings.source_max_files,
            seconds=settings.source_seconds,
            cache_bytes=settings.source_cache_bytes,
        ),
        redirect_places=tuple(place for place in settings.sources if place.startswith("https://")),
        allowed_networks=tuple(str(network) for network in settings.egress_allowed_networks),
        memory_bytes=settings.job_memory_bytes,
        uploads={uri: Path(path) for uri, path in upload_paths.items()},
        received=directory / RECEIVED,
    )


def credentials_of(spec: JobSpec, settings: Settings) -> dict[str, dict[str, str]]:
    """The options of the places that this job reads, and of no other."""
    places = (place_of(uri, settings.sources) for uri in spec.uris().values())
    return {place: settings.sources[place] for place in places if place}
