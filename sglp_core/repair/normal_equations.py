"""Linear maps by weighted ridge regression, from normal equations that are summed batch by batch.

Δ, c = argmin Σ w ‖M·Δ + c − (y − h)‖² + λ‖Δ‖², over the positions of the calibration data: h is the output of the layer
before a cut, y the target there, and M are features of that layer's last write: what it adds to the residual stream
(`least_squares.py`), or what enters it (`refit.py`). c is there only where the module has a bias to hold it.

Weights w = 1/‖y‖² make the error relative, as every later norm sees it: the massive activation of a first position then
counts like any other position, and is still carried. Leaving it out destroys models.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from sglp_core.repair.residual_writes import CannotFold

RIDGE = 0.1
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Normal equations of more channels than this take over a gigabyte each, and several are held.
MOST_FEATURES = 12_288


class LinearFit:
    """A full map `[F, D]`; the equations are float64, and nothing else is kept."""

    def __init__(self, features: int, size: int, shift: bool) -> None:
        self._features, self._shift = features, shift
        columns = features + shift
        self._squares = torch.zeros(columns, columns, dtype=torch.float64)
        # Products of the features with y and with h: two sums, because the scale of y may be known only at the end.
        self._by_target, self._by_output = (torch.zeros(columns, size, dtype=torch.float64) for _ in range(2))

    def add(self, features: Tensor, output: Tensor, target: Tensor) -> None:
        """M `[N, F]`, h and y `[N, D]` of N positions."""
        weight = _weights(target)
        features = features.double()
        if self._shift:
            features = torch.cat([features, torch.ones_like(features[:, :1])], 1)
        weighted = (features * weight[:, None]).T
        self._squares += (weighted @ features).cpu()
        self._by_target += (weighted @ target.double()).cpu()
        self._by_output += (weighted @ output.double()).cpu()

    def solve(self, ridge: float = RIDGE, alpha: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Δ and c for y / `alpha`; `ridge` is λ relative to the mean square of M.

        Raises `torch.linalg.LinAlgError`, a `RuntimeError`, where there is nothing to fit.
        """
        solved = self._solved(ridge, alpha)
        return solved[: self._features], solved[self._features] if self._shift else None

    def best_ridge(self, ridges: Sequence[float], held_out: "LinearFit", alpha: float = 1.0) -> float:
        """The one whose map has the least weighted squared error on the positions of `held_out`."""
        return min(ridges, key=lambda ridge: held_out._error(self._solved(ridge, alpha), alpha))

    def _solved(self, ridge: float, alpha: float) -> Tensor:
        penalty = torch.zeros(len(self._squares), dtype=torch.float64)
        penalty[: self._features] = ridge * self._squares.diagonal()[: self._features].mean()
        solved: Tensor = torch.linalg.solve(self._squares + penalty.diag(), self._by_target / alpha - self._by_output)
        return solved

    def _error(self, solved: Tensor, alpha: float) -> float:
        """The squared error, less a constant that no map can change."""
        return float((solved * (self._squares @ solved - 2 * (self._by_target / alpha - self._by_output))).sum())


class TunedLinearFit:
    """A full map whose ridge is the one that errs least on positions that were not fitted on.

    Raises `CannotFold` where more than `MOST_FEATURES` channels enter.
    """

    def __init__(self, features: int, size: int, shift: bool) -> None:
        if features > MOST_FEATURES:
            raise CannotFold(f"{features} channels enter, and weights of at most {MOST_FEATURES} are refitted")
        self._fitted, self._held_out = (LinearFit(features, size, shift) for _ in range(2))

    def add(self, features: Tensor, output: Tensor, target: Tensor, *, held_out: bool) -> None:
        """As for `LinearFit`; `held_out` positions settle the ridge."""
        (self._held_out if held_out else self._fitted).add(features, output, target)

    def solve(self, alpha: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Δ `[F, D]` and c `[D]` for y / `alpha`. Raises `torch.linalg.LinAlgError`."""
        ridge = self._fitted.best_ridge(RIDGES, self._held_out, alpha)
        return self._fitted.solve(ridge, alpha)


class ElementwiseFit:
    """One factor a channel `[D]`, for writes that a norm makes: the same least squares, channel by channel."""

    def __init__(self, size: int, shift: bool) -> None:
        self._shift = shift
        self._squares = torch.zeros(size, 2, 2, dtype=torch.float64)
        self._by_target, self._by_output = (torch.zeros(size, 2, dtype=torch.float64) for _ in range(2))

    def add(self, written: Tensor, output: Tensor, target: Tensor) -> None:
        """M, h and y of N positions, `[N, D]` each."""
        weight = _weights(target)
        features = torch.stack([written.double(), torch.ones_like(written, dtype=torch.float64)], -1)
        self._squares += torch.einsum("n,nda,ndb->dab", weight, features, features).cpu()
        self._by_target += torch.einsum("n,nda,nd->da", weight, features, target.double()).cpu()
        self._by_output += torch.einsum("n,nda,nd->da", weight, features, output.double()).cpu()

    def solve(self, ridge: float = RIDGE, alpha: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Factors and c for y / `alpha`; `ridge` is λ relative to the mean square of each channel."""
        products = self._by_target / alpha - self._by_output
        squares = self._squares.clone()
        squares[:, 0, 0] *= 1 + ridge
        if not self._shift:
            return 1 + products[:, 0] / squares[:, 0, 0].clamp_min(1e-30), None
        solved = torch.linalg.solve(squares, products)
        return 1 + solved[:, 0], solved[:, 1]


def _weights(target: Tensor) -> Tensor:
    return 1 / target.double().square().sum(-1).clamp_min(1e-30)
