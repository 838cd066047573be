"""One cut: which layers are removed there, where weights can be changed, and the residual streams on both sides."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import nn

from sglp_core.execution.native_types import exact
from sglp_core.repair.residual_stream import CutInWalk, CutStreams
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.repair.writes.residual_writes import CannotFold, LayerWrites, Write
from sglp_core.structure.runs import Removed, Run
from sglp_core.tasks import Batch


@dataclass(frozen=True)
class Cut:
    """One cut of the `removed` layers, where a walk has come to.

    The repairs of the cuts before it make the residual stream `shrinkage` times smaller than it is in the dense model.
    `tunes` says whether fits try several settings.
    """

    finder: WriteFinder
    removed: Removed
    here: CutInWalk
    shrinkage: float
    tunes: bool = True

    @property
    def run(self) -> Run:
        """The removed layers of this cut."""
        return self.here.run

    @property
    def model(self) -> Any:
        """The dense model; the layer before the cut has its weights, and they are as earlier repairs left them."""
        return self.finder.model

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the dense model."""
        return self.finder.layers

    def writes_before(self) -> LayerWrites:
        """The writes of the kept layer before the cut. Raises `CannotFold`."""
        if isinstance(self._before, CannotFold):
            raise CannotFold(str(self._before))
        return self._before

    def writes_after(self) -> list[LayerWrites]:
        """The writes of every kept layer after the cut, all of which undo a factor of the stream.

        Raises `CannotFold` where one does not.
        """
        kept = [i for i in range(self.run.stop, len(self.layers)) if i not in self.removed]
        writes = [self.finder.writes(i) for i in kept]
        if not any(each.whole for each in writes):
            self.finder.require_undone([*kept, len(self.layers)])
        return writes

    def projection_before(self, norm: Write) -> Write:
        """The projection whose output that norm of the layer before the cut takes. Raises `CannotFold`."""
        return self.finder.projection_before(self.run.start - 1, norm)

    def streams(self, batch: Batch, write: Write | None = None) -> CutStreams:
        """The streams at the cut, the target as small as earlier repairs make it, and what enters and leaves a `write`:
        by default the last one before the cut, if there is one."""
        if write is None and isinstance(self._before, LayerWrites):
            write = self._before.modules[0]
        return self.scaled(self.here.streams(self.here.number(batch), write))

    def scaled(self, streams: CutStreams) -> CutStreams:
        """The streams with the target as small as earlier repairs make it."""
        return replace(streams, target=exact(streams.target) / self.shrinkage)

    @cached_property
    def _before(self) -> LayerWrites | CannotFold:
        if self.run.start == 0:
            return CannotFold("no layer is left before the cut")
        try:
            return self.finder.writes(self.run.start - 1)
        except CannotFold as reason:
            return reason.kept()
