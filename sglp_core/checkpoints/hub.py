"""Download a model from a Hugging Face hub: the files that loading it reads, and no others, within given limits.

These are config.json and the descriptions beside it, templates of the tokenizer, and `model.safetensors` or the shards
that the index names. Everything that is downloaded counts for the limits.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from sglp_core.checkpoints.limits import require_space
from sglp_core.checkpoints.quantisation import refuse_quantised
from sglp_core.checkpoints.safetensors_header import INDEX, WEIGHTS, read_shards
from sglp_core.checkpoints.strict_json import read_json
from sglp_core.errors import InsufficientStorage, ModelNotFound, SourceForbidden, SourceUnreachable, UnsafeFormat

if TYPE_CHECKING:
    pass

CONFIGURATION = "config.json"
DESCRIPTIONS = (
    "*.json", "*.model", "*.spm", "*.tiktoken", "*.txt", "*.jinja", "README.md", "*LICENSE*", "NOTICE*", "*POLICY*",
)  # fmt: skip
# As transformers calls it.
TEMPLATES = "additional_chat_templates/"

Answer = TypeVar("Answer")
Sizes = Mapping[str, int]


@dataclass(frozen=True)
class HubAccess:
    """Credentials for the hub, and the most bytes and files to download of one model, in how many seconds (None: no
    limit).

    A `token` of None uses the token stored for this machine's user; False sends no token.
    """

    token: str | bool | None = field(default=None, repr=False)
    max_bytes: int | None = None
    max_files: int | None = None
    seconds: float | None = None


def download(repository: str, revision: str | None, cache: Path, access: HubAccess) -> tuple[Path, str]:
    """The folder with the model's files, and the commit of the revision."""

    def run() -> tuple[Path, str]:
        snapshot = _Snapshot(repository, revision, cache, access)
        return snapshot.folder(snapshot.weights()), snapshot.commit

    return _bounded(repository, revision, access, run)


def download_outline(
    repository: str, revision: str | None, cache: Path, access: HubAccess
) -> tuple[Path, str, dict[str, int]]:
    """As `download`, but instead of weights only how many there are of each safetensors dtype."""

    def run() -> tuple[Path, str, dict[str, int]]:
        snapshot = _Snapshot(repository, revision, cache, access)
        snapshot.weights()
        folder = snapshot.folder({})
        headers = snapshot.api.get_safetensors_metadata(repository, revision=snapshot.commit)
        return folder, snapshot.commit, {str(dtype): count for dtype, count in headers.parameter_count.items()}

    return _bounded(repository, revision, access, run)


class _Snapshot:
    """The files of one commit on the hub, as the hub lists them."""

    def __init__(self, repository: str, revision: str | None, cache: Path, access: HubAccess) -> None:
        from huggingface_hub import HfApi

        self.api: HfApi = HfApi(token=access.token)
        info = self.api.model_info(repository, revision=revision, files_metadata=True)
        assert info.sha is not None
        self.commit = info.sha
        self._repository, self._cache, self._access = repository, cache, access
        self._sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        self._descriptions = {name: size for name, size in self._sizes.items() if _describes(name)}
        cache.mkdir(parents=True, exist_ok=True)

    def weights(self) -> Sizes:
        """The weight files of the model and their sizes in bytes; where there are several, their index is read."""
        self._require_few(self._descriptions)
        if CONFIGURATION not in self._sizes:
            raise ModelNotFound(f"{self._repository} has no {CONFIGURATION}, so it is not a model that can be loaded")
        if INDEX in self._sizes:
            self._require_small(self._descriptions)
            names = sorted(read_shards(self._file(INDEX)))
        elif WEIGHTS in self._sizes:
            names = [WEIGHTS]
        else:
            raise self._without_weights()
        missing = [name for name in names if name not in self._sizes]
        if missing:
            raise ModelNotFound(f"{INDEX} of {self._repository} names shards that are not there: {missing[:5]}")
        self._require_few([*self._descriptions, *names])
        return {name: self._sizes[name] for name in names}

    def folder(self, weights: Sizes) -> Path:
        """A folder with the descriptions and these weights, downloaded where the cache has them not."""
        files = {**self._descriptions, **weights}
        self._require_small(files)
        require_space(self._cache, sum(files.values()), f"the download of {self._repository}")
        # Before the weights, which may take hours.
        refuse_quantised(read_json(self._file(CONFIGURATION)), {})
        # One after the other: a client that downloads several at once does so on threads that outlive its caller.
        for name in files:
            self._file(name)
        return self._file(CONFIGURATION).parent

    def _file(self, name: str) -> Path:
        path = self.api.hf_hub_download(self._repository, name, revision=self.commit, cache_dir=self._cache / "hub")
        return Path(path)

    def _require_few(self, names: Collection[str]) -> None:
        most = self._access.max_files
        if most is not None and len(names) > most:
            raise InsufficientStorage(
                f"{self._repository} has {len(names)} files, more than may be downloaded here ({most})"
            )

    def _require_small(self, files: Sizes) -> None:
        total, most = sum(files.values()), self._access.max_bytes
        if most is not None and total > most:
            raise InsufficientStorage(
                f"{self._repository} has {total:,} bytes, more than may be downloaded here ({most:,})"
            )

    def _without_weights(self) -> ModelNotFound | UnsafeFormat:
        if "adapter_config.json" in self._sizes:
            return UnsafeFormat(f"{self._repository} is an adapter; merge it into the weights of its model")
        if any(name.endswith(".safetensors") and "/" not in name for name in self._sizes):
            return ModelNotFound(f"{self._repository} has neither {WEIGHTS} nor {INDEX}")
        return UnsafeFormat(f"{self._repository} has no safetensors weights; pickle weights are never loaded")


def _describes(name: str) -> bool:
    if "/" in name:
        return name.startswith(TEMPLATES) and name.endswith(".jinja") and name.count("/") == 1
    return any(fnmatchcase(name, pattern) for pattern in DESCRIPTIONS)


def _bounded(repository: str, revision: str | None, access: HubAccess, download: Callable[[], Answer]) -> Answer:
    """What `download` returns, with its errors translated, unless it takes longer than it may.

    The hub's client cannot be interrupted: a thread that is late is left alone, and ends with the process.
    """
    future: Future[Answer] = Future()

    def run() -> None:
        try:
            with _hub_errors(repository, revision):
                future.set_result(download())
        except BaseException as error:
            future.set_exception(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(access.seconds)
    if not future.done():
        raise SourceUnreachable(
            f"the download of {repository} took longer than the {access.seconds:.0f} seconds that were left for it; "
            "start it again, and it goes on from where it was"
        )
    return future.result()


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
