"""A variant of a dense model: the layers that are removed from it and the weights that are changed in it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sglp_core.execution.weight_changes import Changes


@dataclass(frozen=True)
class Variant:
    """`removed` are layer indices; `changes` are new values of parameters and buffers, by name."""

    removed: Sequence[int] = ()
    changes: Changes = field(default_factory=dict)

    def release(self) -> None:
        """Free the changed weights, once they are written."""
        # Changed in place, because other holders of this object would keep them in memory.
        object.__setattr__(self, "changes", {})
