"""From a model URI to local files: a path, `file://`, or `hf://org/name` from any hub that speaks the HTTP API.

Only configuration, tokenizer and safetensors files are downloaded; the revision is resolved to a commit first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sglp_core.errors import ModelNotFound, SourceForbidden, SourceUnreachable, UnsafeFormat
from sglp_core.sources import require_space, within

HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*")


@dataclass(frozen=True)
class Fetched:
    """Local files of a model; `revision` is the commit of a hub model; `origin` is what people call it."""

    path: Path
    origin: str
    revision: str | None


def fetch(uri: str, revision: str | None, cache: Path, roots: Sequence[Path] | None) -> Fetched:
    """Make a model's files local. Raises `ModelNotFound`, `SourceForbidden`, `SourceUnreachable`, `UnsafeFormat`."""
    parts = urlsplit(uri)
    if parts.scheme == "hf":
        return _from_hub(f"{parts.netloc}{parts.path}".strip("/"), revision, cache)
    if parts.scheme not in {"", "file"}:
        raise SourceForbidden(f"{parts.scheme}:// is not a known model scheme; use file:// or hf://")
    path = within(Path(unquote(parts.path)) if parts.scheme else Path(uri), roots)
    return Fetched(path, path.name, None)


def _from_hub(repository: str, revision: str | None, cache: Path) -> Fetched:
    from huggingface_hub import HfApi, errors

    # The HTTP library that the hub's client uses, which differs by its version.
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    api = HfApi()
    try:
        info = api.model_info(repository, revision=revision, files_metadata=True)
        files = {file.rfilename: file.size or 0 for file in info.siblings or []}
        weights = [name for name in files if name.endswith(".safetensors") and "/" not in name]
        if not weights:
            raise UnsafeFormat(f"{repository} has no safetensors weights; pickle weights are never loaded")
        cache.mkdir(parents=True, exist_ok=True)
        require_space(cache, sum(files[name] for name in weights), f"the download of {repository}")
        directory = api.snapshot_download(
            repository, revision=info.sha, cache_dir=cache / "hub", allow_patterns=list(HUB_FILES), max_workers=2
        )
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.GatedRepoError) as error:
        raise ModelNotFound(f"the hub has no model {repository} at {revision or 'main'} that may be read") from error
    except errors.HFValidationError as error:
        raise ModelNotFound(f"{repository!r} is not a hub model name (org/name)") from error
    except (httpx.HTTPError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise SourceUnreachable(f"the hub could not be reached for {repository}: {type(error).__name__}") from error
    return Fetched(Path(directory), repository, info.sha)
