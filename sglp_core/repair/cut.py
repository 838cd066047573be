"""One cut: which layers are removed there, where weights can be changed, and the residual streams on both sides."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import Changes
from sglp_core.repair.residual_stream import CutStreams, cut_streams
from sglp_core.repair.residual_writes import CannotFold, LayerWrites, Write
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.runs import Removed, Run
from sglp_core.tasks import Batch


@dataclass(frozen=True)
class Cut:
    """One `run` of the `removed` layers.

    The repairs of the cuts before it are in `changes`, and make the residual stream `shrinkage` times smaller than it
    is in the dense model.
    """

    finder: WriteFinder
    removed: Removed
    run: Run
    changes: Changes
    shrinkage: float

    @property
    def model(self) -> Any:
        """The dense model."""
        return self.finder.model

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the dense model."""
        return self.finder.layers

    @property
    def pruned(self) -> Variant:
        """The model without the removed layers, the cuts before this one repaired."""
        return Variant(self.removed, self.changes)

    def writes_before(self) -> LayerWrites:
        """The writes of the kept layer before the cut. Raises `CannotFold`."""
        if isinstance(self._before, CannotFold):
            raise CannotFold(str(self._before))
        return self._before

    def writes_after(self) -> list[LayerWrites]:
        """The writes of every kept layer after the cut. Raises `CannotFold`."""
        kept = (i for i in range(self.run.stop, len(self.layers)) if i not in self.removed)
        return [self.finder.writes(i) for i in kept]

    def projection_before(self, norm: Write) -> Write:
        """The projection whose output that norm of the layer before the cut takes. Raises `CannotFold`."""
        return self.finder.projection_before(self.run.start - 1, norm)

    def streams(self, batch: Batch, write: Write | None = None) -> CutStreams:
        """The streams at the cut, the target as small as earlier repairs make it, and what enters and leaves a `write`:
        by default the last one before the cut, if there is one."""
        if write is None and isinstance(self._before, LayerWrites):
            write = self._before.modules[0]
        streams = cut_streams(self.finder.layered, batch, self.pruned, self.run, write)
        return replace(streams, target=streams.target.double() / self.shrinkage)

    @cached_property
    def _before(self) -> LayerWrites | CannotFold:
        if self.run.start == 0:
            return CannotFold("no layer is left before the cut")
        try:
            return self.finder.writes(self.run.start - 1)
        except CannotFold as reason:
            return reason
