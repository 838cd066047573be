"""`refit`: new weights of the last write before a cut, fitted against what enters it.

Every map of what a module writes (`least_squares.py`) is also a change of its weights, but where more channels enter
than leave, weights can say more. They can also be fitted too closely, so how far they may move is settled by windows
that were not fitted on. Of a mixture of experts only a shared expert is refitted, as what enters the others differs
from expert to expert.

Where the write is a norm, the projection before it is refitted. A norm lets through the direction of what enters it and
not its length. So the projection is fitted to the direction from which the norm would make the target, at the length
that the norm's input has now. The length of the target is one factor for the norm itself, where the stream is a sum
(Gemma); in a post-norm model every length is the norm's own.
"""

from typing import Any

import torch
from torch import Tensor

from sglp_core.execution.native_types import exact
from sglp_core.repair.contract import Candidate, CutFit, CutRepair
from sglp_core.repair.cut import Cut
from sglp_core.repair.fold import fold, fold_change, has_shift, weight_shape
from sglp_core.repair.normal_equations import TunedLinearFit
from sglp_core.repair.residual_stream import CutStreams
from sglp_core.repair.writes.residual_writes import CannotFold, Write
from sglp_core.tasks import Batch

# Channels that the norm makes smaller than this share of the mean cannot be steered.
LEAST_CHANNEL = 1e-3


def refit(cut: Cut) -> CutFit:
    """The fit that goes with the last write before the cut. Raises `CannotFold`."""
    write = cut.writes_before().modules[0]
    if write.operation == "norm":
        return NormRefit(cut)
    if write.mixture is None:
        return ProjectionRefit(cut, write)
    if write.mixture.shared is None:
        raise CannotFold(f"what enters the projections of {write.module} differs from expert to expert")
    return ProjectionRefit(cut, write.mixture.shared)


class ProjectionRefit:
    """New weights of a projection that writes to the residual stream itself: the last write before a cut, or the shared
    expert in it."""

    def __init__(self, cut: Cut, projection: Write) -> None:
        self._cut, self._projection = cut, projection
        shape, shift = weight_shape(cut.model, projection), has_shift(cut.model, projection)
        self._fit = TunedLinearFit(*shape, shift, tunes=cut.tunes)

    def add(self, batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
        if self._projection != self._cut.writes_before().modules[0]:
            streams = self._cut.streams(batch, self._projection)
        assert streams.entered is not None
        self._fit.add(streams.entered, streams.pruned, streams.target, held_out=held_out)

    def build(self, shrinkage: float) -> Candidate:
        return Candidate(fold_change(self._cut.model, self._projection, *self._fit.solve(shrinkage)))


class NormRefit:
    """New weights of a projection whose output passes a norm before it reaches the residual stream."""

    def __init__(self, cut: Cut) -> None:
        self._cut, self._norm = cut, cut.writes_before().modules[0]
        self._fit = RefitThroughNorm(cut.model, self._norm, cut.projection_before(self._norm), tunes=cut.tunes)

    def add(self, batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
        features = self._cut.streams(batch, self._fit.projection).entered
        assert features is not None
        self._fit.add(features, streams, held_out=held_out)

    def build(self, shrinkage: float) -> Candidate:
        if shrinkage != 1:
            raise CannotFold(f"{self._norm.module} is a norm, and has its length from itself")
        return Candidate(self._fit.changes())


class RefitThroughNorm:
    """Normal equations for the `projection` whose output the norm of `write` takes."""

    def __init__(self, model: Any, write: Write, projection: Write, *, tunes: bool = True) -> None:
        self.projection = projection
        self._model, self._write = model, write
        self._norm = model.get_submodule(write.module)
        self._fit = TunedLinearFit(*weight_shape(model, projection), has_shift(model, projection), tunes=tunes)
        self._lengths, self._count = 0.0, 0

    @torch.no_grad()
    def add(self, features: Tensor, streams: CutStreams, *, held_out: bool) -> None:
        """What enters the projection `[N, F]`, and the streams with what enters and leaves the norm."""
        assert streams.entered is not None
        assert streams.written is not None
        target = exact(streams.written) + exact(streams.target) - exact(streams.pruned)
        direction, length = self._before_norm(exact(streams.entered), target)
        self._fit.add(features, streams.entered, direction, held_out=held_out)
        if not held_out:
            self._lengths += float(length.sum())
            self._count += len(length)

    def changes(self) -> dict[str, Tensor]:
        """New weights of the projection, and of the norm where it has no bias. Raises `CannotFold`."""
        new = fold_change(self._model, self.projection, *self._fit.solve())
        if not has_shift(self._model, self._write):
            new |= fold(self._model, self._write, torch.tensor(self._lengths / self._count))
        return new

    def _before_norm(self, entered: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """What should enter the norm `[N, D]` so that its output has the target's direction, and that length `[N]`."""
        weight = (exact(self._norm.weight) + self._write.offset) * self._write.gain
        bias = exact(self._norm.bias) * self._write.gain if has_shift(self._model, self._write) else 0.0
        mean = entered.mean(-1, keepdim=True) if self._centres(entered) else torch.zeros_like(entered[:, :1])
        scale = (entered - mean).square().mean(-1, keepdim=True).sqrt().clamp_min(1e-30)
        steered = weight.abs() > LEAST_CHANNEL * weight.abs().mean()
        normed = torch.where(steered, (target - bias) / torch.where(steered, weight, 1.0), (entered - mean) / scale)
        if self._centres(entered):
            normed = normed - normed.mean(-1, keepdim=True)
        length = normed.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-30)
        return mean + scale * normed / length, length[:, 0]

    def _centres(self, entered: Tensor) -> bool:
        """Whether the norm takes the mean off, as a LayerNorm does and an RMSNorm does not."""
        probe = entered[:1].to(self._norm.weight)
        moved = self._norm(probe + probe.abs().max())
        return bool(torch.allclose(moved.float(), self._norm(probe).float(), rtol=1e-2, atol=1e-2))


REFIT = CutRepair(refit, uses_held_out=True)
