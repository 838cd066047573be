"""What every step of a run needs besides its own input."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sglp_core.checkpoints.converted_models import ConvertedModels
from sglp_core.checkpoints.fetch import DEFAULT_CACHE
from sglp_core.options import Memory
from sglp_core.progress import Phase, ProgressReporter, SilentReporter
from sglp_core.result_cache import LIMIT_BYTES, Cache


@dataclass(frozen=True)
class ResultTransfer:
    """How a run goes on on another machine.

    `received` is a folder with the results of steps that another machine kept, empty where none has. `kept` is called
    with the file of each result that this one keeps; a later one may replace that file.
    """

    received: Path
    kept: Callable[[Path], None]


@dataclass(frozen=True)
class RunContext:
    """Where a run may read, its cache, how it uses memory, and the reporter of its progress.

    `roots` are the only folders in which local models and data may lie (None: anywhere). `local_files` maps sources of
    data to files that the caller has already fetched. `cache` holds downloaded models, earlier results, and what has no
    room in memory while a run lasts. `memory` says whether the weights are loaded or streamed from disk.
    `converted` has the models that were converted from GGUF (None: all of them stay, in `cache`).
    `transfer` takes the results of finished steps to other machines (None: a run resumes from `cache` alone).
    """

    roots: Sequence[Path] | None = None
    local_files: Mapping[str, Path] = field(default_factory=dict)
    cache: Path = DEFAULT_CACHE
    memory: Memory = "auto"
    reporter: ProgressReporter = field(default_factory=SilentReporter)
    transfer: ResultTransfer | None = None
    converted: ConvertedModels | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", self.cache.expanduser())

    def results(self, kind: str, limit_bytes: int = LIMIT_BYTES) -> Cache:
        """The kept results of one kind of step, in the folder of that name."""
        folder = self.cache / kind
        if self.transfer is None:
            return Cache(folder, limit_bytes)
        return Cache(folder, limit_bytes, self.transfer.received, self.transfer.kept)

    def converted_models(self) -> ConvertedModels:
        """Where converted models lie."""
        return self.converted or ConvertedModels(self.cache / "converted")

    def phase(self, name: str) -> Phase:
        """The progress of the phase of this name."""
        return Phase(self.reporter, name)
