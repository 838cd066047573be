"""From `s3://`, `gs://`, `az://` and `https://` to local files of a job: which files, within which limits.

A model is a folder of files with the names that Hugging Face gives them, or one GGUF file; nothing is listed, and no
other name is ever asked for. Data is one file. See docs/use/sources.md.
"""

import json
import re
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jobs.locations.uris import PLACE_SCHEMES, place_of
from worker.sources.access import DownloadLimits, SourceAccess
from worker.sources.buckets import Bucket
from worker.sources.download_cache import DownloadCache
from worker.sources.https import Website
from worker.sources.remote_folder import Interrupted, Place, RemoteFile, SourceError

CONFIGURATION = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
# An adapter is fetched so that the method can refuse it.
DESCRIPTIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "adapter_config.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md",
)  # fmt: skip
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SHARD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
DATA_SUFFIXES = (".txt", ".jsonl", ".parquet", ".zip")
MAX_DESCRIPTION_BYTES = 64_000_000
# As in sglp_core.checkpoints.safetensors_header, which refuses a longer header by its first bytes.
MAX_HEADER_BYTES = 100_000_000
TRIES = 5
FIRST_PAUSE_SECONDS = 0.5
# So much must have arrived for a transfer that broke again to count as one that goes on.
PROGRESS_BYTES = 1 << 20
WAIT_SECONDS = 0.2
TELL_SECONDS = 0.5


def is_remote(uri: str) -> bool:
    """Whether a URI is one that this module makes local."""
    return urlsplit(uri).scheme in PLACE_SCHEMES


class Sources:
    """Makes files local below `folder`, which goes with the job; every method raises `SourceError`.

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
        self._deadline = time.monotonic() + limits.seconds
        self._open = ExitStack()
        self.facts: list[dict[str, Any]] = []

    def close(self) -> None:
        """Close what connections are left; the files stay."""
        self._open.close()

    def model(self, uri: str) -> Path:
        """A model's folder, or its GGUF file, as a whole."""
        place, files = self._model_files(uri)
        return _model_at(self._fetched(place, files, self._folder / "model", uri), files)

    def outline(self, uri: str) -> Path:
        """As `model`, but of safetensors files only the headers: the rest of them is a hole that takes no room."""
        place, files = self._model_files(uri)
        weights = [file for file in files if file.name.endswith(".safetensors")]
        path = self._fetched(place, [file for file in files if file not in weights], self._folder / "model", uri)
        for file in weights:
            (length,) = struct.unpack("<Q", self._bytes(place, file, 0, 8).ljust(8, b"\0"))
            end = min(8 + (length if length <= MAX_HEADER_BYTES else 0), file.size_bytes)
            with (path / file.name).open("wb") as written:
                written.write(self._bytes(place, file, 0, end))
                written.truncate(file.size_bytes)
        self.facts += [file.facts() for file in weights]
        return _model_at(path, files)

    def data(self, uri: str, name: str) -> Path:
        """One file of data, below a folder `name`."""
        if not uri.endswith(DATA_SUFFIXES):
            raise SourceError("bad_calibration", f"{uri} must be one {', '.join(DATA_SUFFIXES)} file")
        place, file_name = self._split(uri)
        file = self._required(place, file_name, uri, "bad_calibration")
        return self._fetched(place, [file], self._folder / name, uri) / file_name

    def _model_files(self, uri: str) -> tuple[Place, list[RemoteFile]]:
        """The files a model is made of, each asked for by its name."""
        if uri.lower().endswith(".gguf"):
            place, name = self._split(uri)
            return place, [self._required(place, name, uri)]
        place = self._place(uri.rstrip("/"), uri)
        configuration = self._required(place, CONFIGURATION, f"{uri.rstrip('/')}/{CONFIGURATION}")
        found = [self._optional(place, name) for name in DESCRIPTIONS]
        index = self._optional(place, INDEX)
        if index:
            names = self._shards(place, index)
            weights = [index, *(self._required(place, name, f"{uri.rstrip('/')}/{name}") for name in names)]
        elif single := self._optional(place, WEIGHTS):
            weights = [single]
        elif any(self._optional(place, name) for name in PICKLES):
            raise SourceError(
                "unsafe_format",
                f"{uri} has only pickle weights, which can run code when they are read; save the model again with "
                "model.save_pretrained(…), which writes safetensors",
            )
        else:
            raise SourceError("model_not_found", f"{uri} has neither {WEIGHTS} nor {INDEX}")
        return place, [configuration, *(file for file in found if file), *weights]

    def _shards(self, place: Place, index: RemoteFile) -> list[str]:
        if index.size_bytes > MAX_DESCRIPTION_BYTES:
            raise SourceError("unsafe_format", f"{index.uri} is larger than {MAX_DESCRIPTION_BYTES:,} bytes")
        try:
            names = set(json.loads(self._bytes(place, index, 0, index.size_bytes))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise SourceError("unsafe_format", f"{index.uri} is no index of safetensors weights") from None
        if not names or not all(isinstance(name, str) and SHARD.fullmatch(name) for name in names):
            raise SourceError("unsafe_format", f"{index.uri} names shards outside the model's folder, or none at all")
        if len(names) > self._limits.max_files:
            raise self._too_many(index.uri)
        return sorted(names)

    def _fetched(self, place: Place, files: Sequence[RemoteFile], folder: Path, uri: str) -> Path:
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
        told = _Told(self._report, total)
        for file in files:
            self._cache.link(
                file, folder / file.name, lambda start, file=file: self._chunks(place, file, start, told), self._wait
            )
            told.at_least(sum(each.size_bytes for each in files[: files.index(file) + 1]))
        self.facts += [file.facts() for file in files]
        return folder

    def _chunks(self, place: Place, file: RemoteFile, start: int, told: "_Told") -> Iterator[bytes]:
        """The bytes from `start` on, whatever breaks in between, within the limits."""
        failures, since = 0, 0
        told.add(start)
        while start < file.size_bytes:
            try:
                for chunk in place.read(file, start, file.size_bytes):
                    self._require_time()
                    start, since = start + len(chunk), since + len(chunk)
                    told.add(len(chunk))
                    yield chunk
                if start < file.size_bytes:
                    raise Interrupted(f"{file.uri} ended before its end")
            except Interrupted as error:
                failures = 1 if since >= PROGRESS_BYTES else failures + 1
                since = 0
                self._pause(failures, error)

    def _bytes(self, place: Place, file: RemoteFile, start: int, end: int) -> bytes:
        def read() -> bytes:
            content = b"".join(place.read(file, start, end))
            if len(content) < end - start:
                raise Interrupted(f"{file.uri} ended before its end")
            return content

        return self._again(read)

    def _optional(self, place: Place, name: str) -> RemoteFile | None:
        try:
            return self._again(lambda: place.find(name))
        except SourceError as error:
            # Without the right to list, S3 does not tell what is missing from what may not be read.
            if error.code == "source_forbidden" and isinstance(place, Bucket):
                return None
            raise

    def _required(self, place: Place, name: str, uri: str, code: str = "model_not_found") -> RemoteFile:
        found: RemoteFile | None = self._again(lambda: place.find(name))
        if found is None:
            raise SourceError(code, f"there is no {uri}")
        return found

    def _again(self, ask: Callable[[], Any]) -> Any:
        failures = 0
        while True:
            self._require_time()
            try:
                return ask()
            except Interrupted as error:
                failures += 1
                self._pause(failures, error)

    def _pause(self, failures: int, error: Interrupted) -> None:
        if failures >= TRIES:
            raise SourceError(
                "source_unreachable", f"the connection failed {TRIES} times in a row: {error}; submit the job again"
            ) from None
        self._require_time()
        time.sleep(min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), max(0.0, self._deadline - time.monotonic())))

    def _wait(self) -> None:
        self._require_time()
        time.sleep(WAIT_SECONDS)

    def _require_time(self) -> None:
        if time.monotonic() > self._deadline:
            raise SourceError(
                "source_unreachable",
                f"the download took longer than {self._limits.seconds:g} seconds (SGLP_SOURCE_SECONDS); submit the "
                "job again, and it goes on from where it was",
            )

    def _split(self, uri: str) -> tuple[Place, str]:
        if not urlsplit(uri).path.strip("/"):
            raise SourceError("model_not_found", f"{uri} names no file")
        folder, _, name = uri.rpartition("/")
        return self._place(folder, uri), unquote(name)

    def _place(self, folder: str, uri: str) -> Place:
        """The folder by its scheme, with the options of the place that the URI lies in."""
        place = place_of(uri, self._access.options)
        if place is None:
            raise SourceError(
                "source_forbidden", f"{uri} does not lie in one of the places this service reads from (SGLP_SOURCES)"
            )
        options = self._access.options[place]
        if urlsplit(uri).scheme == "https":
            own = (place, options.get("authorization"))
            website = Website(folder, own, self._access.redirect_hosts, self._access.allowed_networks, self._deadline)
            self._open.callback(website.close)
            return website
        return Bucket(folder, options)

    def _too_many(self, uri: str) -> SourceError:
        return SourceError(
            "insufficient_storage",
            f"{uri} has more than {self._limits.max_files} files, more than this service downloads "
            "(SGLP_SOURCE_MAX_FILES)",
        )


def _model_at(folder: Path, files: Sequence[RemoteFile]) -> Path:
    return folder if files[0].name == CONFIGURATION else folder / files[0].name


class _Told:
    """Counts bytes and says so, but not for every one."""

    def __init__(self, tell: Callable[[int, int], None], total: int) -> None:
        self._tell, self._total = tell, total
        self._done, self._told_at = 0, 0.0

    def add(self, count: int) -> None:
        self._done += count
        if self._done >= self._total or time.monotonic() - self._told_at > TELL_SECONDS:
            self._told_at = time.monotonic()
            self._tell(min(self._done, self._total), self._total)

    def at_least(self, count: int) -> None:
        """So much is there, whoever downloaded it."""
        self.add(max(0, count - self._done))
