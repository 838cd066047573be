"""The linear map that makes the layer before a cut write what the removed layers would have added.

T = argmin Σ w ‖M·T + c − (y − h + M)‖² + λ‖T − I‖², over the positions of the calibration data, with M what the last
write of that layer adds to the residual stream, h that layer's output, and y what the removed run would have handed on
(ReplaceMe, arXiv 2505.02819). c is there only where the module has a bias to hold it.

Weights w = 1/‖y‖² make the error relative, as every later norm sees it: the massive activation of a first position then
counts like any other position, and is still carried. Leaving it out destroys models.
"""

import torch
from torch import Tensor

RIDGE = 0.1


class LinearFit:
    """A full map `[D, D]`: normal equations in float64, batch by batch, so nothing else is kept."""

    def __init__(self, size: int, shift: bool) -> None:
        self._shift = shift
        columns = size + shift
        self._squares = torch.zeros(columns, columns, dtype=torch.float64)
        # Of the features with y and with h, apart because the size that y should have may be known only at the end.
        self._wanted, self._had = (torch.zeros(columns, size, dtype=torch.float64) for _ in range(2))

    def add(self, written: Tensor, handed_on: Tensor, wanted: Tensor) -> None:
        """M, h and y of N positions, `[N, D]` each."""
        weight = _weights(wanted)
        features = written.double()
        if self._shift:
            features = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        weighted = (features * weight[:, None]).T
        self._squares += (weighted @ features).cpu()
        self._wanted += (weighted @ wanted.double()).cpu()
        self._had += (weighted @ handed_on.double()).cpu()

    def solve(self, ridge: float = RIDGE, alpha: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """T and c for y / `alpha`; `ridge` is λ relative to the mean square of M.

        Raises `torch.linalg.LinAlgError`, a `RuntimeError`, where nothing was written.
        """
        size = self._had.shape[1]
        penalty = torch.zeros(len(self._squares), dtype=torch.float64)
        penalty[:size] = ridge * self._squares.diagonal()[:size].mean()
        solved = torch.linalg.solve(self._squares + penalty.diag(), self._wanted / alpha - self._had)
        return torch.eye(size, dtype=torch.float64) + solved[:size], solved[size] if self._shift else None


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
