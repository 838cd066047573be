"""The linear map that makes the layer before a cut write what the removed layers would have added.

Δ, c = argmin Σ w ‖M·Δ + c − (y − h)‖² + λ‖Δ‖², over the positions of the calibration data, with h that layer's output,
y what the removed run would have handed on, and M features of the layer's last write. With what the write adds to the
residual stream as M, T = I + Δ is the map of ReplaceMe (arXiv 2505.02819), and with what enters the write, Δ is a
change of its weights (`refitting.py`). c is there only where the module has a bias to hold it.

Weights w = 1/‖y‖² make the error relative, as every later norm sees it: the massive activation of a first position then
counts like any other position, and is still carried. Leaving it out destroys models.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

RIDGE = 0.1


class LinearFit:
    """A full map `[F, D]`: normal equations in float64, batch by batch, so nothing else is kept."""

    def __init__(self, features: int, size: int, shift: bool) -> None:
        self._features, self._shift = features, shift
        columns = features + shift
        self._squares = torch.zeros(columns, columns, dtype=torch.float64)
        # Of the features with y and with h, apart because the size that y should have may be known only at the end.
        self._wanted, self._had = (torch.zeros(columns, size, dtype=torch.float64) for _ in range(2))

    def add(self, features: Tensor, handed_on: Tensor, wanted: Tensor) -> None:
        """M `[N, F]`, h and y `[N, D]` of N positions."""
        weight = _weights(wanted)
        features = features.double()
        if self._shift:
            features = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        weighted = (features * weight[:, None]).T
        self._squares += (weighted @ features).cpu()
        self._wanted += (weighted @ wanted.double()).cpu()
        self._had += (weighted @ handed_on.double()).cpu()

    def solve(self, ridge: float = RIDGE, alpha: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Δ and c for y / `alpha`; `ridge` is λ relative to the mean square of M.

        Raises `torch.linalg.LinAlgError`, a `RuntimeError`, where there is nothing to fit.
        """
        solved = self._solved(ridge, alpha)
        return solved[: self._features], solved[self._features] if self._shift else None

    def best_ridge(self, ridges: Sequence[float], judge: "LinearFit", alpha: float = 1.0) -> float:
        """The one whose map has the least weighted squared error on what `judge` has seen."""
        return min(ridges, key=lambda ridge: judge._error(self._solved(ridge, alpha), alpha))

    def _solved(self, ridge: float, alpha: float) -> Tensor:
        penalty = torch.zeros(len(self._squares), dtype=torch.float64)
        penalty[: self._features] = ridge * self._squares.diagonal()[: self._features].mean()
        solved: Tensor = torch.linalg.solve(self._squares + penalty.diag(), self._wanted / alpha - self._had)
        return solved

    def _error(self, solved: Tensor, alpha: float) -> float:
        """But for what no map can change."""
        return float((solved * (self._squares @ solved - 2 * (self._wanted / alpha - self._had))).sum())


class ElementwiseFit:
    """One factor a channel `[D]`, for writes that a norm makes: the same least squares, channel by channel."""

    def __init__(self, size: int, shift: bool) -> None:
        self._shift = shift
        self._squares = torch.zeros(size, 2, 2, dtype=torch.float64)
        self._wanted, self._had = (torch.zeros(size, 2, dtype=torch.float64) for _ in range(2))

    def add(self, written: Tensor, handed_on: Tensor, wanted: Tensor) -> None:
        """M, h and y of N positions, `[N, D]` each."""
        weight = _weights(wanted)
        features = torch.stack([written.double(), torch.ones_like(written, dtype=torch.float64)], -1)
        self._squares += torch.einsum("n,nda,ndb->dab", weight, features, features).cpu()
        self._wanted += torch.einsum("n,nda,nd->da", weight, features, wanted.double()).cpu()
        self._had += torch.einsum("n,nda,nd->da", weight, features, handed_on.double()).cpu()

    def solve(self, ridge: float = RIDGE, alpha: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Factors and c for y / `alpha`; `ridge` is λ relative to the mean square of each channel."""
        products = self._wanted / alpha - self._had
        squares = self._squares.clone()
        squares[:, 0, 0] *= 1 + ridge
        if not self._shift:
            return 1 + products[:, 0] / squares[:, 0, 0].clamp_min(1e-30), None
        solved = torch.linalg.solve(squares, products)
        return 1 + solved[:, 0], solved[:, 1]


def _weights(wanted: Tensor) -> Tensor:
    return 1 / wanted.double().square().sum(-1).clamp_min(1e-30)
