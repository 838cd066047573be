"""Make the model and the data of a job local files."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.locations.uris import place_of
from worker.sources.hub_cache import hold, make_room
from worker.sources.model_files import Sources, is_remote
from worker.supervision.messages import ChildRequest

if TYPE_CHECKING:
    from sglp_core.checkpoints.fetch import Fetched, FetchedOutline


@dataclass(frozen=True)
class LocalFiles:
    """`model` has the weights, or for an estimate only their headers. `data` has the file of each URI."""

    model: "FetchedOutline"
    data: Mapping[str, Path]


def make_local(
    request: ChildRequest, sources: Sources, folder: Path, credentials: Mapping[str, Mapping[str, str]]
) -> LocalFiles:
    """Download what is not local yet into caches, and link it into `folder`."""
    # Importing the method imports torch.
    from sglp_core.checkpoints.fetch import Fetched, FetchedOutline

    spec = request.spec
    uri, is_estimate = spec.model.uri, spec.mode == "estimate"
    if is_remote(uri):
        path = sources.outline(uri) if is_estimate else sources.model(uri)
        model = FetchedOutline(Fetched(path, uri, None, downloaded=True), {})
    elif uri.startswith("hf://"):
        model = _from_hub(request, folder / "model", sources, credentials)
    else:
        model = _fetch(request, sources, credentials)
    parts = {} if is_estimate else {pointer.split("/")[1]: source for pointer, source in spec.uris().items()}
    data = {
        source: sources.data(source, part) for part, source in parts.items() if part != "model" and is_remote(source)
    }
    return LocalFiles(model, {**data, **request.uploads})


def _from_hub(
    request: ChildRequest, folder: Path, sources: Sources, credentials: Mapping[str, Mapping[str, str]]
) -> "FetchedOutline":
    """The model with `folder` as its path, which has links to the files in the hub client's cache."""
    models: list[FetchedOutline] = []

    def download() -> Path:
        models.append(_fetch(request, sources, credentials))
        return models[-1].fetched.path

    hold(download, folder)
    make_room(request.cache / "hub", request.limits.cache_bytes)
    fetched: Fetched = replace(models[-1].fetched, path=folder)
    return replace(models[-1], fetched=fetched)


def _fetch(request: ChildRequest, sources: Sources, credentials: Mapping[str, Mapping[str, str]]) -> "FetchedOutline":
    from sglp_core.checkpoints.fetch import FetchedOutline, fetch, fetch_outline
    from sglp_core.checkpoints.hub import HubAccess

    model, limits = request.spec.model, request.limits
    # False: without credentials for this job, never use a token that is stored on this machine.
    token = credentials.get(place_of(model.uri, credentials) or "", {}).get("token", False)
    access = HubAccess(token, limits.max_bytes, limits.max_files, sources.seconds_left())
    if request.spec.mode == "estimate":
        return fetch_outline(model.uri, model.revision, request.cache, request.roots, access)
    return FetchedOutline(fetch(model.uri, model.revision, request.cache, request.roots, access), {})
