"""The residual stream at a cut: that of the dense model after it, and that of the pruned model before it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sglp_core.execution.native_types import exact
from sglp_core.execution.variants import States, Track, Walk
from sglp_core.execution.weight_changes import Changes
from sglp_core.repair.writes.residual_writes import CannotFold, Write
from sglp_core.structure.layer_calls import layer_output
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch


@dataclass(frozen=True)
class CutStreams:
    """One batch at a cut, a row `[N, D]` for every position that is not padding.

    `target` is the stream of the dense model after the cut, and `pruned` the stream of the pruned model, which lacks
    what the removed layers added. `written` is what the last write before the cut added to it, computed from its input
    `entered` `[N, F]` (both None where no write was named). `first` marks the first position of each text.
    """

    target: Tensor
    pruned: Tensor
    written: Tensor | None
    entered: Tensor | None
    first: Tensor


class CutInWalk:
    """A cut that a walk has come to the end of: its batches, and the states on both sides.

    `before` enters the last layer before the cut, None where there is none.
    """

    def __init__(self, walk: Walk, run: Run, pruned: Track, before: States | None, target: States) -> None:
        self._walk, self.run = walk, run
        self._pruned, self._before, self._target = pruned, before, target

    @contextmanager
    def layer_before(self) -> Iterator[None]:
        """The layer before the cut has its weights on the device; call the other methods inside."""
        if self._before is None:
            yield
        else:
            with self._walk.layer(self.run.start - 1):
                yield

    def number(self, batch: Batch) -> int:
        """The number of a batch of the walk."""
        return next(number for number, each in enumerate(self._walk.batches) if each is batch)

    def after(self, number: int, changes: Changes) -> Tensor:
        """The pruned stream that enters the cut in one batch, `[B, T, D]`, with changes of the layer before it."""
        if self._before is None:
            return self._pruned.states[number].to(self._walk.model.device)
        return self._walk.rerun(self.run.start - 1, number, self._before[number], changes)

    def streams(self, number: int, write: Write | None) -> CutStreams:
        """The streams of one batch. Raises `CannotFold` where they are not `[batch, position, channel]`."""
        kept: dict[str, Tensor] = {}

        def keep_write(_module: nn.Module, args: tuple[Tensor, ...], output: Any) -> None:
            kept["entered"], kept["written"] = args[0], layer_output(output)

        model = self._walk.model.model
        handles = [model.get_submodule(write.module).register_forward_hook(keep_write)] if write else []
        try:
            pruned = self.after(number, self._pruned.changes)
        finally:
            for handle in handles:
                handle.remove()
        if pruned.ndim != 3:
            raise CannotFold(
                f"the stream between layers has {pruned.ndim} dimensions; it must be [batch, position, channel]"
            )
        counted, first = self._walk.positions(number, pruned)
        return CutStreams(
            target=self._target[number].to(pruned.device)[counted],
            pruned=pruned[counted],
            written=kept["written"].reshape(pruned.shape)[counted] * write.gain if write else None,
            entered=kept["entered"].reshape(*pruned.shape[:2], -1)[counted] if write else None,
            first=first[counted],
        )

    def distance(self, number: int, changes: Changes, scale: float) -> tuple[Tensor, int]:
        """Σ over positions of ‖pruned − target / `scale`‖² / ‖target / `scale`‖² in one batch, and their number."""
        pruned = self.after(number, changes)
        counted, _ = self._walk.positions(number, pruned)
        target = self._target[number].to(pruned.device)[counted].float() / scale
        error = (pruned[counted].float() - target).square().sum(-1)
        return exact(error / target.square().sum(-1).clamp_min(1e-30)).sum(), len(target)
