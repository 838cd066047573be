"""Make the files of a model local: a path, a `file://` URI, or `hf://org/name@revision` on a Hugging Face hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sglp_core.checkpoints.hub import HubAccess, download, download_outline
from sglp_core.checkpoints.model_folder import within
from sglp_core.errors import ModelNotFound, SourceForbidden

DEFAULT_CACHE = Path("~/.cache/sglp")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Fetched:
    """Local files of a model; `origin` is its name for people, `revision` the commit of a hub model.

    `downloaded` files lie in our download cache, which consists of links and is outside the configured roots.
    """

    path: Path
    origin: str
    revision: str | None
    downloaded: bool = False


@dataclass(frozen=True)
class FetchedOutline:
    """The description of a model without its weights.

    `weights_by_dtype` counts the weights of each safetensors dtype; empty for a local model, whose files can be read.
    """

    fetched: Fetched
    weights_by_dtype: dict[str, int]


def fetch(
    uri: str, revision: str | None, cache: Path, roots: Sequence[Path] | None, access: HubAccess = HubAccess()
) -> Fetched:
    """Make a model's files local; a model of the hub is downloaded into `cache`.

    Raises `ModelNotFound`, `SourceForbidden`, `SourceUnreachable`, `UnsafeFormat` and `InsufficientStorage`.
    """
    parts = urlsplit(uri)
    if parts.scheme == "hf":
        repository, revision = _repository_and_revision(uri, revision)
        path, commit = download(repository, revision, cache, access)
        return Fetched(path, repository, commit, downloaded=True)
    if parts.scheme not in {"", "file"}:
        raise SourceForbidden(f"{parts.scheme}:// is not a known model scheme; use file:// or hf://")
    try:
        path = within(Path(unquote(parts.path)) if parts.scheme else Path(uri), roots)
    except ModelNotFound as error:
        if not HUB_NAME.fullmatch(uri):
            raise
        raise ModelNotFound(f"{error}; a model of the Hugging Face hub is named hf://{uri}") from error
    return Fetched(path, path.name, None)


def fetch_outline(
    uri: str, revision: str | None, cache: Path, roots: Sequence[Path] | None, access: HubAccess = HubAccess()
) -> FetchedOutline:
    """As `fetch`, but of a hub model only the configuration and tokenizer, and the headers of its weight files."""
    if urlsplit(uri).scheme != "hf":
        return FetchedOutline(fetch(uri, revision, cache, roots), {})
    repository, revision = _repository_and_revision(uri, revision)
    path, commit, weights_by_dtype = download_outline(repository, revision, cache, access)
    return FetchedOutline(Fetched(path, repository, commit, downloaded=True), weights_by_dtype)


def _repository_and_revision(uri: str, revision: str | None) -> tuple[str, str | None]:
    """Repository and revision of `hf://org/name` or `hf://org/name@revision`; one in the URI comes first."""
    repository, _, revision_in_uri = uri.removeprefix("hf://").partition("@")
    return repository.strip("/"), revision_in_uri or revision
