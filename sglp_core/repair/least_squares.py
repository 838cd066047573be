"""`least_squares`: a linear map of what the layer before a cut writes, so that it adds what the removed layers added.

T = I + Δ is the map of ReplaceMe (arXiv 2505.02819), with Δ and c as `normal_equations.py` finds them for M, what the
last write of that layer adds to the residual stream. Where that write is a norm, T has one factor a channel.
"""

import torch

from sglp_core.repair.contract import Candidate, CutRepair
from sglp_core.repair.cut import Cut
from sglp_core.repair.elementwise_fit import ElementwiseFit
from sglp_core.repair.fold import channels, fold, has_shift
from sglp_core.repair.normal_equations import LinearFit
from sglp_core.repair.residual_stream import CutStreams
from sglp_core.tasks import Batch


class LeastSquares:
    """The map of the last write before one cut."""

    def __init__(self, cut: Cut) -> None:
        """Raises `CannotFold` where no write is found before the cut."""
        self._model, self._write = cut.model, cut.writes_before().modules[0]
        size, shift = channels(self._model, self._write), has_shift(self._model, self._write)
        self._fit: ElementwiseFit | LinearFit
        self._fit = ElementwiseFit(size, shift) if self._write.operation == "norm" else LinearFit(size, size, shift)

    def add(self, _batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
        assert streams.written is not None
        assert not held_out
        self._fit.add(streams.written, streams.pruned, streams.target)

    def build(self, shrinkage: float) -> Candidate:
        if isinstance(self._fit, ElementwiseFit):
            return Candidate(fold(self._model, self._write, *self._fit.solve(alpha=shrinkage)))
        change, shift = self._fit.solve(alpha=shrinkage)
        scale = torch.eye(len(change), dtype=change.dtype, device=change.device) + change
        return Candidate(fold(self._model, self._write, scale, shift))


LEAST_SQUARES = CutRepair(LeastSquares)
