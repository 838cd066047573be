"""Download the models and data of a job from `s3://`, `gs://`, `az://` or `https://`: which files, and how large.

A model is a folder of files with the names that Hugging Face gives them, or one GGUF file. Folders are never listed,
and files of other names are never requested. Data is one file. See docs/use/sources.md.
"""

import json
import re
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from jobs.locations.uris import PLACE_SCHEMES, place_of
from jobs.progress import SourceFile
from worker.sources.access import DownloadLimits, SourceAccess
from worker.sources.buckets import Bucket
from worker.sources.download_cache import DownloadCache
from worker.sources.https import Website
from worker.sources.remote_folder import RemoteFile, RemoteFolder, SourceError
from worker.sources.transfers import ByteCounter, Transfers

CONFIGURATION = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
# An adapter is fetched so that the method can refuse it.
DESCRIPTIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "spm.model", "tekken.json",
    "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "adapter_config.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "USE_POLICY.md",
)  # fmt: skip
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
DATA_SUFFIXES = (".txt", ".jsonl", ".parquet", ".zip")
MAX_DESCRIPTION_BYTES = 64_000_000
# As in sglp_core.checkpoints.safetensors_header, which refuses a longer header by its first bytes.
MAX_HEADER_BYTES = 100_000_000


def is_remote(uri: str) -> bool:
    """Whether this module can download the URI."""
    return urlsplit(uri).scheme in PLACE_SCHEMES


class Sources:
    """Makes files local below `folder`, which is removed with the job; every method raises `SourceError`.

    `report` is called with the bytes done and the bytes in total.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        limits: DownloadLimits,
        access: SourceAccess,
        report: Callable[[int, int], None],
    ) -> None:
        self._folder, self._limits, self._access, self._report = folder, limits, access, report
        self._cache = DownloadCache(cache, limits.cache_bytes)
        self._transfers = Transfers(limits.seconds)
        self._connections = ExitStack()
        self.facts: list[SourceFile] = []

    def close(self) -> None:
        """Close the open connections; the files stay."""
        self._connections.close()

    def seconds_left(self) -> float:
        """How long all downloads of this job may still take."""
        return self._transfers.seconds_left()

    def model(self, uri: str) -> Path:
        """A model's folder, or its GGUF file, as a whole."""
        remote, files = self._model_files(uri)
        return _model_at(self._fetched(remote, files, self._folder / "model", uri), files)

    def outline(self, uri: str) -> Path:
        """As `model`, but only the headers of safetensors files; the rest of each file is a hole that takes no room."""
        remote, files = self._model_files(uri)
        weights = [file for file in files if file.name.endswith(".safetensors")]
        path = self._fetched(remote, [file for file in files if file not in weights], self._folder / "model", uri)
        for file in weights:
            (length,) = struct.unpack("<Q", self._transfers.read(remote, file, 0, 8).ljust(8, b"\0"))
            end = min(8 + (length if length <= MAX_HEADER_BYTES else 0), file.size_bytes)
            with (path / file.name).open("wb") as written:
                written.write(self._transfers.read(remote, file, 0, end))
                written.truncate(file.size_bytes)
        self.facts += [file.facts() for file in weights]
        return _model_at(path, files)

    def data(self, uri: str, name: str) -> Path:
        """One file of data, below a folder `name`."""
        if not uri.endswith(DATA_SUFFIXES):
            raise SourceError("bad_calibration", f"{uri} must be one {', '.join(DATA_SUFFIXES)} file")
        remote, file_name = self._split(uri)
        file = self._required(remote, file_name, uri, "bad_calibration")
        return self._fetched(remote, [file], self._folder / name, uri) / file_name

    def _model_files(self, uri: str) -> tuple[RemoteFolder, list[RemoteFile]]:
        """The files of a model. Each is requested by its name; no folder is listed."""
        if uri.lower().endswith(".gguf"):
            remote, name = self._split(uri)
            return remote, [self._required(remote, name, uri)]
        remote = self._remote_folder(uri.rstrip("/"), uri)
        configuration = self._required(remote, CONFIGURATION, f"{uri.rstrip('/')}/{CONFIGURATION}")
        descriptions = [self._optional(remote, name) for name in DESCRIPTIONS]
        index = self._optional(remote, INDEX)
        if index:
            names = self._shards(remote, index)
            weights = [index, *(self._required(remote, name, f"{uri.rstrip('/')}/{name}") for name in names)]
        elif single := self._optional(remote, WEIGHTS):
            weights = [single]
        elif any(self._optional(remote, name) for name in PICKLES):
            raise SourceError(
                "unsafe_format",
                f"{uri} has only pickle weights, which can run code when they are read; save the model again with "
                "model.save_pretrained(…), which writes safetensors",
            )
        else:
            raise SourceError("model_not_found", f"{uri} has neither {WEIGHTS} nor {INDEX}")
        return remote, [configuration, *(file for file in descriptions if file), *weights]

    def _shards(self, remote: RemoteFolder, index: RemoteFile) -> list[str]:
        if index.size_bytes > MAX_DESCRIPTION_BYTES:
            raise SourceError("unsafe_format", f"{index.uri} is larger than {MAX_DESCRIPTION_BYTES:,} bytes")
        try:
            names = set(json.loads(self._transfers.read(remote, index, 0, index.size_bytes))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise SourceError("unsafe_format", f"{index.uri} is no index of safetensors weights") from None
        if not names or not all(isinstance(name, str) and SHARD.fullmatch(name) for name in names):
            raise SourceError("unsafe_format", f"{index.uri} names shards outside the model's folder, or none at all")
        if len(names) > self._limits.max_files:
            raise self._too_many(index.uri)
        return sorted(names)

    def _fetched(self, remote: RemoteFolder, files: Sequence[RemoteFile], folder: Path, uri: str) -> Path:
        """`folder`, with the files linked into it."""
        total = sum(file.size_bytes for file in files)
        if len(files) > self._limits.max_files:
            raise self._too_many(uri)
        if total > min(self._limits.max_bytes, self._limits.cache_bytes):
            raise SourceError(
                "insufficient_storage",
                f"{uri} has {total:,} bytes, more than this service downloads (SGLP_SOURCE_MAX_BYTES, "
                "SGLP_SOURCE_CACHE_BYTES)",
            )
        folder.mkdir()
        counter, done_bytes = ByteCounter(self._report, total), 0
        for file in files:
            stream = partial(self._transfers.stream, remote, file, counter=counter)
            self._cache.link(file, folder / file.name, stream, self._transfers.wait_for_other)
            done_bytes += file.size_bytes
            counter.raise_to(done_bytes)
        self.facts += [file.facts() for file in files]
        return folder

    def _optional(self, remote: RemoteFolder, name: str) -> RemoteFile | None:
        try:
            return self._transfers.find(remote, name)
        except SourceError as error:
            # Without the right to list a bucket, S3 answers 403 for a missing key too.
            if error.code == "source_forbidden" and isinstance(remote, Bucket):
                return None
            raise

    def _required(self, remote: RemoteFolder, name: str, uri: str, code: str = "model_not_found") -> RemoteFile:
        file = self._transfers.find(remote, name)
        if file is None:
            raise SourceError(code, f"there is no {uri}")
        return file

    def _split(self, uri: str) -> tuple[RemoteFolder, str]:
        if not urlsplit(uri).path.strip("/"):
            raise SourceError("model_not_found", f"{uri} names no file")
        folder, _, name = uri.rpartition("/")
        return self._remote_folder(folder, uri), unquote(name)

    def _remote_folder(self, folder: str, uri: str) -> RemoteFolder:
        """The folder by its scheme, with the options of the place that the URI lies in."""
        place = place_of(uri, self._access.options)
        if place is None:
            raise SourceError(
                "source_forbidden", f"{uri} does not lie in one of the places this service reads from (SGLP_SOURCES)"
            )
        if urlsplit(uri).scheme == "https":
            website = Website(folder, place, self._access, self._transfers.deadline)
            self._connections.callback(website.close)
            return website
        return Bucket(folder, self._access.options[place])

    def _too_many(self, uri: str) -> SourceError:
        return SourceError(
            "insufficient_storage",
            f"{uri} has more than {self._limits.max_files} files, more than this service downloads "
            "(SGLP_SOURCE_MAX_FILES)",
        )


def _model_at(folder: Path, files: Sequence[RemoteFile]) -> Path:
    return folder if files[0].name == CONFIGURATION else folder / files[0].name
