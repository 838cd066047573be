"""What every step of a run needs besides its own input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sglp_core.checkpoints.fetch import DEFAULT_CACHE
from sglp_core.options import Memory
from sglp_core.progress import Phase, ProgressReporter, SilentReporter


@dataclass(frozen=True)
class RunContext:
    """Where a run may read, where it keeps what can be used again, and who follows it.

    `roots` are the only folders that local models and data may lie in (None: anywhere). `local_files` are the files of
    calibration and evaluation sources that the caller has fetched, by the name of the source. `cache` holds fetched
    models and earlier results. `memory` says whether the weights are loaded whole.
    """

    roots: Sequence[Path] | None = None
    local_files: Mapping[str, Path] = field(default_factory=dict)
    cache: Path = DEFAULT_CACHE
    memory: Memory = "auto"
    reporter: ProgressReporter = field(default_factory=SilentReporter)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache", self.cache.expanduser())

    def phase(self, name: str) -> Phase:
        """The progress of the phase of this name."""
        return Phase(self.reporter, name)
