"""From a model URI to local files: a path, `file://`, or `hf://org/name@revision` from any hub with the same HTTP API.

Only configuration, tokenizer and safetensors files are downloaded; the revision is resolved to a commit first.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sglp_core.checkpoints.limits import require_space
from sglp_core.checkpoints.model_folder import within
from sglp_core.errors import InsufficientStorage, ModelNotFound, SourceForbidden, SourceUnreachable, UnsafeFormat

if TYPE_CHECKING:
    from huggingface_hub import HfApi

DEFAULT_CACHE = Path("~/.cache/sglp")
DESCRIPTIONS = ("*.json", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*")
HUB_FILES = ("*.safetensors", *DESCRIPTIONS)


@dataclass(frozen=True)
class HubAccess:
    """How the hub is asked, and how much may be downloaded of one model (None: anything).

    A `token` of None is the one that this machine's user has stored, False is none at all.
    """

    token: str | bool | None = field(default=None, repr=False)
    max_bytes: int | None = None
    max_files: int | None = None


@dataclass(frozen=True)
class Fetched:
    """Local files of a model; `revision` is the commit of a hub model; `origin` is what people call it.

    `downloaded` files lie in a cache of ours, where links are how it works, and not below the configured roots.
    """

    path: Path
    origin: str
    revision: str | None
    downloaded: bool = False


@dataclass(frozen=True)
class Outlined:
    """`values` counts the weights of each dtype, as safetensors names them; empty where the files are here to ask."""

    fetched: Fetched
    values: dict[str, int]


def fetch(
    uri: str, revision: str | None, cache: Path, roots: Sequence[Path] | None, access: HubAccess = HubAccess()
) -> Fetched:
    """Make a model's files local. Raises `ModelNotFound`, `SourceForbidden`, `SourceUnreachable`, `UnsafeFormat`."""
    parts = urlsplit(uri)
    if parts.scheme == "hf":
        return _from_hub(*_on_hub(uri, revision), cache, access)
    if parts.scheme not in {"", "file"}:
        raise SourceForbidden(f"{parts.scheme}:// is not a known model scheme; use file:// or hf://")
    path = within(Path(unquote(parts.path)) if parts.scheme else Path(uri), roots)
    return Fetched(path, path.name, None)


def fetch_outline(
    uri: str, revision: str | None, cache: Path, roots: Sequence[Path] | None, access: HubAccess = HubAccess()
) -> Outlined:
    """As `fetch`, but of a model on a hub only what describes it, and the headers of its weights."""
    if urlsplit(uri).scheme != "hf":
        return Outlined(fetch(uri, revision, cache, roots), {})
    return _outlined(*_on_hub(uri, revision), cache, access)


def _on_hub(uri: str, revision: str | None) -> tuple[str, str | None]:
    """Repository and revision of `hf://org/name` or `hf://org/name@revision`."""
    repository, _, named = uri.removeprefix("hf://").partition("@")
    return repository.strip("/"), named or revision


def _from_hub(repository: str, revision: str | None, cache: Path, access: HubAccess) -> Fetched:
    from huggingface_hub import HfApi

    with _hub_errors(repository, revision):
        api = HfApi(token=access.token)
        commit, weights = _weights_on_hub(api, repository, revision)
        _require_allowed(access, repository, weights)
        cache.mkdir(parents=True, exist_ok=True)
        require_space(cache, sum(weights.values()), f"the download of {repository}")
        return _snapshot(api, repository, commit, cache, HUB_FILES)


def _outlined(repository: str, revision: str | None, cache: Path, access: HubAccess) -> Outlined:
    from huggingface_hub import HfApi

    with _hub_errors(repository, revision):
        api = HfApi(token=access.token)
        commit, _ = _weights_on_hub(api, repository, revision)
        headers = api.get_safetensors_metadata(repository, revision=commit)
        return Outlined(
            _snapshot(api, repository, commit, cache, DESCRIPTIONS),
            {str(dtype): count for dtype, count in headers.parameter_count.items()},
        )


def _weights_on_hub(api: "HfApi", repository: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit of a revision, and the size of each of its weight files."""
    info = api.model_info(repository, revision=revision, files_metadata=True)
    files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    weights = {name: size for name, size in files.items() if name.endswith(".safetensors") and "/" not in name}
    if not weights:
        raise UnsafeFormat(f"{repository} has no safetensors weights; pickle weights are never loaded")
    assert info.sha is not None
    return info.sha, weights


def _require_allowed(access: HubAccess, repository: str, weights: dict[str, int]) -> None:
    total = sum(weights.values())
    if access.max_bytes is not None and total > access.max_bytes:
        raise InsufficientStorage(f"{repository} has {total:,} bytes of weights, more than may be downloaded here")
    if access.max_files is not None and len(weights) > access.max_files:
        raise InsufficientStorage(f"{repository} has {len(weights)} files of weights, more than may be downloaded here")


def _snapshot(api: "HfApi", repository: str, commit: str, cache: Path, patterns: Sequence[str]) -> Fetched:
    directory = api.snapshot_download(
        repository, revision=commit, cache_dir=cache / "hub", allow_patterns=list(patterns), max_workers=2
    )
    return Fetched(Path(directory), repository, commit, downloaded=True)


@contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """The hub client's errors as ours."""
    from huggingface_hub import errors

    # The HTTP library that the hub's client uses, which differs by its version.
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceForbidden(
            f"{repository} is gated: its terms must be accepted on the hub, and the token of who did so stored"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelNotFound(f"the hub has no model {repository} at {revision or 'main'} that may be read") from error
    except errors.HFValidationError as error:
        raise ModelNotFound(f"{repository!r} is not a hub model name (org/name)") from error
    except (errors.NotASafetensorsRepoError, errors.SafetensorsParsingError) as error:
        raise UnsafeFormat(f"the weights of {repository} are not sound safetensors files: {error}") from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in {401, 403}:
            raise SourceForbidden(f"the hub refuses the token it was given for {repository}; check it") from error
        raise SourceUnreachable(f"the hub could not be reached for {repository}: {type(error).__name__}") from error
    except (httpx.HTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise SourceUnreachable(f"the hub could not be reached for {repository}: {type(error).__name__}") from error
