"""Make the files of a model local: a path, a `file://` URI, or `hf://org/name@revision` on a Hugging Face hub.

Only configuration, tokenizer and safetensors files are downloaded. The revision is resolved to a commit first.
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
    """Credentials for the hub, and the most bytes and weight files to download of one model (None: no limit).

    A `token` of None uses the token stored for this machine's user; False sends no token.
    """

    token: str | bool | None = field(default=None, repr=False)
    max_bytes: int | None = None
    max_files: int | None = None


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
        return _download(*_repository_and_revision(uri, revision), cache, access)
    if parts.scheme not in {"", "file"}:
        raise SourceForbidden(f"{parts.scheme}:// is not a known model scheme; use file:// or hf://")
    path = within(Path(unquote(parts.path)) if parts.scheme else Path(uri), roots)
    return Fetched(path, path.name, None)


def fetch_outline(
    uri: str, revision: str | None, cache: Path, roots: Sequence[Path] | None, access: HubAccess = HubAccess()
) -> FetchedOutline:
    """As `fetch`, but of a hub model only the configuration and tokenizer, and the headers of its weight files."""
    if urlsplit(uri).scheme != "hf":
        return FetchedOutline(fetch(uri, revision, cache, roots), {})
    return _download_outline(*_repository_and_revision(uri, revision), cache, access)


def _repository_and_revision(uri: str, revision: str | None) -> tuple[str, str | None]:
    """Repository and revision of `hf://org/name` or `hf://org/name@revision`; one in the URI comes first."""
    repository, _, revision_in_uri = uri.removeprefix("hf://").partition("@")
    return repository.strip("/"), revision_in_uri or revision


def _download(repository: str, revision: str | None, cache: Path, access: HubAccess) -> Fetched:
    from huggingface_hub import HfApi

    with _hub_errors(repository, revision):
        api = HfApi(token=access.token)
        commit, weights = _weights_on_hub(api, repository, revision)
        _require_allowed(access, repository, weights)
        cache.mkdir(parents=True, exist_ok=True)
        require_space(cache, sum(weights.values()), f"the download of {repository}")
        return _snapshot(api, repository, commit, cache, HUB_FILES)


def _download_outline(repository: str, revision: str | None, cache: Path, access: HubAccess) -> FetchedOutline:
    from huggingface_hub import HfApi

    with _hub_errors(repository, revision):
        api = HfApi(token=access.token)
        commit, _ = _weights_on_hub(api, repository, revision)
        headers = api.get_safetensors_metadata(repository, revision=commit)
        return FetchedOutline(
            _snapshot(api, repository, commit, cache, DESCRIPTIONS),
            {str(dtype): count for dtype, count in headers.parameter_count.items()},
        )


def _weights_on_hub(api: "HfApi", repository: str, revision: str | None) -> tuple[str, dict[str, int]]:
    """The commit of a revision, and the size in bytes of each of its weight files."""
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
        raise InsufficientStorage(
            f"{repository} has {total:,} bytes of weights, more than may be downloaded here ({access.max_bytes:,})"
        )
    if access.max_files is not None and len(weights) > access.max_files:
        raise InsufficientStorage(
            f"{repository} has {len(weights)} files of weights, more than may be downloaded here ({access.max_files})"
        )


def _snapshot(api: "HfApi", repository: str, commit: str, cache: Path, patterns: Sequence[str]) -> Fetched:
    directory = api.snapshot_download(
        repository, revision=commit, cache_dir=cache / "hub", allow_patterns=list(patterns), max_workers=2
    )
    return Fetched(Path(directory), repository, commit, downloaded=True)


@contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Translate the errors of the hub's client into ours."""
    from huggingface_hub import errors

    # Imported through the hub's client, because its versions use different HTTP libraries.
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    try:
        yield
    except errors.GatedRepoError as error:
        raise SourceForbidden(
            f"{repository} is gated: accept its terms on the hub, then store a token of that account"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelNotFound(
            f"the hub has no model {repository} at {revision or 'main'}, or the token may not read it"
        ) from error
    except errors.HFValidationError as error:
        raise ModelNotFound(f"{repository!r} is not a hub model name (org/name)") from error
    except (errors.NotASafetensorsRepoError, errors.SafetensorsParsingError) as error:
        raise UnsafeFormat(f"the weights of {repository} are not valid safetensors files: {error}") from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code in {401, 403}:
            raise SourceForbidden(f"the hub rejected the token for {repository}; check it") from error
        raise SourceUnreachable(f"the hub could not be reached for {repository}: {type(error).__name__}") from error
    except (httpx.HTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise SourceUnreachable(f"the hub could not be reached for {repository}: {type(error).__name__}") from error
