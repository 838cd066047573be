"""The request to a job's child process, from the claimed job and the settings of this worker."""

from collections.abc import Mapping
from pathlib import Path

from jobs.locations.uris import place_of
from jobs.settings import Settings
from jobs.spec import JobSpec
from worker.sources.access import DownloadLimits
from worker.sources.uploads import COPIES, made_local
from worker.supervision.healing_states import RECEIVED
from worker.supervision.messages import ChildRequest, TraceTarget


def make_request(
    spec: JobSpec, settings: Settings, directory: Path, upload_paths: Mapping[str, str], traceparent: str | None
) -> ChildRequest:
    """`upload_paths` maps the URIs of uploads to their copies in `directory`. No secret is in the request."""
    return ChildRequest(
        spec=made_local(spec, upload_paths),
        roots=(*settings.model_roots, *([directory / COPIES] if upload_paths else [])),
        cache=settings.cache_dir.absolute(),
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
        received_state=directory / RECEIVED,
        trace=TraceTarget(endpoint=settings.otlp_endpoint, parent=traceparent),
    )


def credentials_of(spec: JobSpec, settings: Settings) -> dict[str, dict[str, str]]:
    """The options of the places that this job reads, and of no other."""
    places = (place_of(uri, settings.sources) for uri in spec.uris().values())
    return {place: settings.sources[place] for place in places if place}
