"""Make the model and the data of a job local files."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from pydantic import BaseModel

from jobs.locations.uris import place_of
from jobs.progress import SourceFile
from worker.child.pipe_reporter import PipeReporter
from worker.sources.access import SourceAccess
from worker.sources.hub_cache import hold, make_room
from worker.sources.model_files import Sources, is_remote
from worker.supervision.messages import ChildRequest


class DownloadedModel(BaseModel):
    """A model in the request's `links`; for an estimate it has no weights, and `weights_by_dtype` counts them."""

    path: Path
    origin: str
    revision: str | None
    weights_by_dtype: dict[str, int]


class LocalFiles(BaseModel):
    """What a job works on. `model` is None where the specification names one that is on this machine already.

    `data` has the file of each URI, and `sources` what was read of each.
    """

    model: DownloadedModel | None
    data: dict[str, Path]
    sources: list[SourceFile]


def fetch_files(
    request: ChildRequest, credentials: Mapping[str, Mapping[str, str]], reporter: PipeReporter
) -> LocalFiles:
    """Download what is not local yet into caches, and link it into the request's `links`. Raises `SourceError` and
    what `sglp_core.checkpoints.fetch` raises.
    """
    reporter.fetched(0, 1)
    spec, folder, cache = request.spec, request.links, request.downloads / "sources" / "files"
    is_estimate = spec.mode == "estimate"
    access = SourceAccess(credentials, request.redirect_places, request.allowed_networks)
    with closing(Sources(folder, cache, request.limits, access, reporter.fetched)) as sources:
        model = _download_model(request, sources, credentials)
        parts = {} if is_estimate else {pointer.split("/")[1]: source for pointer, source in spec.uris().items()}
        data = {
            source: sources.data(source, part)
            for part, source in parts.items()
            if part != "model" and is_remote(source)
        }
        return LocalFiles(model=model, data={**data, **request.uploads}, sources=list(sources.facts))


def _download_model(
    request: ChildRequest, sources: Sources, credentials: Mapping[str, Mapping[str, str]]
) -> DownloadedModel | None:
    uri = request.spec.model.uri
    if is_remote(uri):
        path = sources.outline(uri) if request.spec.mode == "estimate" else sources.model(uri)
        return DownloadedModel(path=path, origin=uri, revision=None, weights_by_dtype={})
    return _from_hub(request, sources, credentials) if uri.startswith("hf://") else None


def _from_hub(request: ChildRequest, sources: Sources, credentials: Mapping[str, Mapping[str, str]]) -> DownloadedModel:
    """The model as links to the files in the hub client's cache."""
    # Importing the method imports torch.
    from sglp_core.checkpoints.fetch import FetchedOutline, fetch, fetch_outline
    from sglp_core.checkpoints.hub import HubAccess

    spec, limits, folder = request.spec, request.limits, request.links / "model"
    uri, revision = spec.model.uri, spec.model.revision
    # False: without credentials for this job, never use a token that is stored on this machine.
    token = credentials.get(place_of(uri, credentials) or "", {}).get("token", False)
    access = HubAccess(token, limits.max_bytes, limits.max_files, sources.seconds_left())
    models: list[FetchedOutline] = []

    def download() -> Path:
        if spec.mode == "estimate":
            models.append(fetch_outline(uri, revision, request.downloads, request.roots, access))
        else:
            models.append(FetchedOutline(fetch(uri, revision, request.downloads, request.roots, access), {}))
        return models[-1].fetched.path

    hold(download, folder)
    make_room(request.downloads / "hub", limits.cache_bytes)
    outline = models[-1]
    return DownloadedModel(
        path=folder,
        origin=outline.fetched.origin,
        revision=outline.fetched.revision,
        weights_by_dtype=outline.weights_by_dtype,
    )
