"""`least_squares`: a linear map of what the layer before a cut writes, so that it adds what the removed layers added.

T = I + Δ is the map of ReplaceMe (arXiv 2505.02819), with Δ and c as `normal_equations.py` finds them for M, what the
last write of that layer adds to the residual stream. Where that write is a norm, T has one factor a channel.
"""

import torch
from torch import Tensor

from sglp_core.execution.native_types import exact
from sglp_core.repair.contract import Candidate, CutRepair
from sglp_core.repair.cut import Cut
from sglp_core.repair.fold import channels, fold, has_shift
from sglp_core.repair.normal_equations import RIDGE, LinearFit, LinearMap, weighted
from sglp_core.repair.residual_stream import CutStreams
from sglp_core.tasks import Batch


class ElementwiseFit:
    """One factor a channel `[D]`, for writes that a norm makes: the same least squares, channel by channel."""

    def __init__(self, size: int, shift: bool) -> None:
        self._shift = shift
        self._squares = torch.zeros(size, 2, 2, dtype=torch.float64)
        self._by_target, self._by_output = (torch.zeros(size, 2, dtype=torch.float64) for _ in range(2))

    def add(self, written: Tensor, output: Tensor, target: Tensor) -> None:
        """M, h and y of N positions, `[N, D]` each."""
        root, output, target = weighted(output, target)
        features = torch.stack([exact(written), torch.ones_like(output)], -1) * root[..., None]
        self._squares = self._squares.to(root.device) + torch.einsum("nda,ndb->dab", features, features)
        self._by_target = self._by_target.to(root.device) + torch.einsum("nda,nd->da", features, target)
        self._by_output = self._by_output.to(root.device) + torch.einsum("nda,nd->da", features, output)

    def solve(self, ridge: float = RIDGE, alpha: float = 1.0) -> LinearMap:
        """Factors and c for y / `alpha`; `ridge` is λ relative to the mean square of each channel."""
        products = self._by_target / alpha - self._by_output
        squares = self._squares.clone()
        squares[:, 0, 0] *= 1 + ridge
        if not self._shift:
            return 1 + products[:, 0] / squares[:, 0, 0].clamp_min(1e-30), None
        solved = torch.linalg.solve(squares, products)
        return 1 + solved[:, 0], solved[:, 1]


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
