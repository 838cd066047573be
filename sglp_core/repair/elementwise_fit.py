"""Factors, one a channel, by weighted ridge regression."""

import torch
from torch import Tensor

from sglp_core.execution.native_types import exact
from sglp_core.repair.normal_equations import RIDGE, LinearMap, weighted


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
