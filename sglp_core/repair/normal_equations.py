"""Linear maps by weighted ridge regression, from calibration data that comes batch by batch.

Δ, c = argmin Σ w ‖M·Δ + c − (y − h)‖² + λ‖Δ‖², over the positions of the calibration data: h is the output of the layer
before a cut, y the target there, and M are features of that layer's last write: what it adds to the residual stream
(`least_squares.py`), or what enters it (`refit.py`). c is there only where the module has a bias to hold it.

Weights w = 1/‖y‖² make the error relative, as every later norm sees it: the massive activation of a first position then
counts like any other position, and is still carried. Leaving it out destroys models.

With X the features times √w, Δ is (XᵀX + λI)⁻¹XᵀR (primal, one equation a feature) and also Xᵀ(XXᵀ + λI)⁻¹R (dual, one
a position). The smaller system is solved. Both are float64, on the device of the features where that has float64 and
room for it, else on the CPU.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sglp_core.execution.native_types import exact, exact_device_with_room
from sglp_core.repair.writes.residual_writes import CannotFold

RIDGE = 0.1
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
USUAL_RIDGE = 1.0
# How many positions (primal) or features (dual) are converted to float64 at a time.
CHUNK = 1024
# Δ `[F, D]` and c `[D]`.
LinearMap = tuple[Tensor, Tensor | None]


class LinearFit:
    """A full map of F features to D channels.

    Positions are kept as they come, and summed up from when there are more of them than features. So no more is held
    than F² sums or F rows. `solve` takes as much again.
    """

    def __init__(self, features: int, size: int, shift: bool) -> None:
        self._features, self._size, self._shift = features, size, shift
        self._data: _Rows | _Sums = _Rows(shift)
        self._refused: CannotFold | None = None

    def add(self, features: Tensor, output: Tensor, target: Tensor) -> None:
        """M `[N, F]`, h and y `[N, D]` of N positions, kept without a copy. What does not fit in memory is refused
        by `solve`."""
        if self._refused is not None:
            return
        try:
            if isinstance(self._data, _Rows) and self._data.count + len(features) > self._features + self._shift:
                self._data = self._summed(self._data, features.device)
            self._data.add(features, output, target)
        except CannotFold as reason:
            self._data, self._refused = _Rows(self._shift), reason.kept()

    def solve(self, ridge: float = RIDGE, alpha: float = 1.0) -> LinearMap:
        """Δ and c for y / `alpha`; `ridge` is λ relative to the mean square of M.

        Raises `CannotFold` where there is nothing to fit, or not enough memory.
        """
        return self._fitted().solve(ridge, alpha)

    def error(self, fitted: LinearMap, alpha: float = 1.0) -> float:
        """The weighted squared error of a map on these positions, less a constant that is the same for every map.

        Raises `CannotFold` where the positions did not fit in memory.
        """
        return self._fitted().error(fitted, alpha)

    def _summed(self, rows: "_Rows", device: torch.device) -> "_Sums":
        sums = _Sums(self._features, self._size, self._shift, device)
        for batch in rows.batches:
            sums.add(*batch)
        return sums

    def _fitted(self) -> "_Rows | _Sums":
        if self._refused is not None:
            raise CannotFold(str(self._refused))
        return self._data


class TunedLinearFit:
    """A full map whose ridge is the one that errs least on positions that were not fitted on.

    Without `tunes` it is `USUAL_RIDGE`.
    """

    def __init__(self, features: int, size: int, shift: bool, *, tunes: bool = True) -> None:
        self._tunes = tunes
        self._fitted, self._held_out = (LinearFit(features, size, shift) for _ in range(2))

    def add(self, features: Tensor, output: Tensor, target: Tensor, *, held_out: bool) -> None:
        """As for `LinearFit`; `held_out` positions settle the ridge."""
        if not held_out:
            self._fitted.add(features, output, target)
        elif self._tunes:
            self._held_out.add(features, output, target)

    def solve(self, alpha: float = 1.0) -> LinearMap:
        """Δ `[F, D]` and c `[D]` for y / `alpha`. Raises `CannotFold`."""
        if not self._tunes:
            return self._fitted.solve(USUAL_RIDGE, alpha)
        # Only errors are kept, as maps are large; the best one is computed again.
        tried: dict[int, float] = {}

        def at(number: int) -> float:
            if not 0 <= number < len(RIDGES):
                return math.inf
            if number not in tried:
                tried[number] = self._held_out.error(self._fitted.solve(RIDGES[number], alpha), alpha)
            return tried[number]

        # From the middle down the slope: with the ridge, the error first falls and then rises.
        best = RIDGES.index(USUAL_RIDGE)
        step = 1 if at(best + 1) < at(best) else -1
        while at(best + step) < at(best):
            best += step
        return self._fitted.solve(RIDGES[best], alpha)


class _Rows:
    """All positions, and the dual system, for fewer positions than features.

    c has no penalty, so it is eliminated by taking the weighted mean off features and residuals.
    """

    def __init__(self, shift: bool) -> None:
        self._shift = shift
        self._device: torch.device | None = None
        self.batches: list[tuple[Tensor, ...]] = []
        self._products: tuple[Tensor, float] | None = None
        self.count = 0

    def add(self, features: Tensor, output: Tensor, target: Tensor) -> None:
        # There must be room for another batch like this one.
        needed = sum(each.nbytes for each in (features, output, target))
        self._move(_with_room(needed, self._device or features.device, "more positions"))
        self.batches.append(self._here(features, output, target))
        self._products = None
        self.count += len(features)

    def solve(self, ridge: float, alpha: float) -> LinearMap:
        if not self.batches:
            raise CannotFold("there are no positions to fit")
        if self._products is None:
            self._move(self._with_room_to_solve())
        root, residual, mean = self._residual(alpha)
        products, squares = self._products = self._products or self._multiplied(root)
        system = products.clone()
        system.diagonal().add_(ridge * squares)
        dual = _solved(system, residual)
        change = torch.empty(self.batches[0][0].shape[1], residual.shape[1], dtype=dual.dtype, device=dual.device)
        for (columns, its_mean), part in zip(self._columns(root), change.split(CHUNK), strict=True):
            torch.matmul(columns.T, dual, out=part)
            mean -= its_mean @ part
        return change, mean if self._shift else None

    def error(self, fitted: LinearMap, alpha: float) -> float:
        change, shift = (each if each is None else each.to(self._device) for each in fitted)
        assert change is not None
        total = torch.zeros((), dtype=torch.float64, device=change.device)
        for features, output, target in _chunks(self.batches):
            root, weighted_output, weighted_target = weighted(output, target)
            predicted = (exact(features) * root) @ change + (0 if shift is None else root * shift)
            total += (predicted - weighted_target / alpha + weighted_output).square().sum()
        return float(total)

    def _with_room_to_solve(self) -> torch.device:
        features, size = (each.shape[1] for each in self.batches[0][:2])
        # The products and their factor, a chunk of columns with its copies, residual and solution, two maps.
        doubles = 2 * self.count**2 + self.count * 4 * (min(CHUNK, features) + size) + 2 * features * size
        assert self._device is not None
        return _with_room(doubles * 8, self._device, f"{self.count} positions of {features} channels")

    def _move(self, device: torch.device) -> None:
        if device != self._device:
            self._device = device
            self.batches = [self._here(*batch) for batch in self.batches]

    def _here(self, *batch: Tensor) -> tuple[Tensor, ...]:
        return tuple(each.to(self._device) for each in batch)

    def _multiplied(self, root: Tensor) -> tuple[Tensor, float]:
        """X·Xᵀ `[N, N]`, and the mean square of the features, weighted and summed over positions."""
        features = self.batches[0][0].shape[1]
        products = torch.zeros(self.count, self.count, dtype=torch.float64, device=root.device)
        squares = torch.zeros((), dtype=torch.float64, device=root.device)
        weight = root.square().sum()
        for columns, mean in self._columns(root):
            products.addmm_(columns, columns.T)
            squares += columns.square().sum() + weight * mean.square().sum()
        return products, float(squares) / features

    def _residual(self, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        """√w `[N, 1]`, y / `alpha` − h times √w `[N, D]`, and the mean `[D]` taken off it before (0 without c)."""
        roots, residuals = [], []
        for _, output, target in self.batches:
            root, weighted_output, weighted_target = weighted(output, target)
            roots.append(root)
            residuals.append(weighted_target.div_(alpha).sub_(weighted_output))
        root, residual = torch.cat(roots), torch.cat(residuals)
        mean = self._mean(root, residual)
        return root, residual.addr_(root[:, 0], mean, alpha=-1), mean

    def _columns(self, root: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """X `[N, k]` for k features at a time, and the mean `[k]` taken off it before (0 without c)."""
        for start in range(0, self.batches[0][0].shape[1], CHUNK):
            columns = exact(torch.cat([features[:, start : start + CHUNK] for features, _, _ in self.batches])) * root
            mean = self._mean(root, columns)
            yield columns - root * mean, mean

    def _mean(self, root: Tensor, weighted: Tensor) -> Tensor:
        if not self._shift:
            return torch.zeros_like(weighted[0])
        return root[:, 0] @ weighted / root.square().sum()


class _Sums:
    """The normal equations of the primal system, one for each feature and one for c."""

    def __init__(self, features: int, size: int, shift: bool, device: torch.device) -> None:
        self._features, self._size, self._shift = features, size, shift
        columns = features + shift
        device = _with_room(columns * (columns + 2 * size) * 8, device, f"{features} channels")
        self._squares = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        # Products of the features with y and with h: two sums, because the scale of y may be known only at the end.
        self._by_target, self._by_output = (
            torch.zeros(columns, size, dtype=torch.float64, device=device) for _ in range(2)
        )

    def add(self, features: Tensor, output: Tensor, target: Tensor) -> None:
        for chunk in _chunks([(features, output, target)]):
            some_features, some_output, some_target = (each.to(self._squares.device) for each in chunk)
            root, weighted_output, weighted_target = weighted(some_output, some_target)
            rows = exact(some_features) * root
            rows = torch.cat([rows, root], 1) if self._shift else rows
            self._squares.addmm_(rows.T, rows)
            self._by_target.addmm_(rows.T, weighted_target)
            self._by_output.addmm_(rows.T, weighted_output)

    def solve(self, ridge: float, alpha: float) -> LinearMap:
        columns = len(self._squares)
        # The factor, the right-hand side, the solution on its way, and two maps.
        doubles = columns * (columns + 4 * self._size)
        self._move(_with_room(doubles * 8, self._squares.device, f"{self._features} channels"))
        system = self._squares.clone()
        penalised = system.diagonal()[: self._features]
        penalised.add_(ridge * penalised.mean())
        solved = _solved(system, self._by_target / alpha - self._by_output)
        return solved[: self._features], solved[self._features] if self._shift else None

    def error(self, fitted: LinearMap, alpha: float) -> float:
        change, shift = fitted
        solved = (change if shift is None else torch.cat([change, shift[None]])).to(self._squares.device)
        return float((solved * (self._squares @ solved - 2 * (self._by_target / alpha - self._by_output))).sum())

    def _move(self, device: torch.device) -> None:
        self._squares, self._by_target, self._by_output = (
            each.to(device) for each in (self._squares, self._by_target, self._by_output)
        )


def _solved(system: Tensor, right: Tensor) -> Tensor:
    """The solution for a symmetric matrix, whose place its factor takes.

    Raises `CannotFold` where the matrix is not positive definite.
    """
    # Column by column, as LAPACK stores it: any other order makes copies of the whole matrix.
    factor = system.mT
    info = torch.zeros((), dtype=torch.int32, device=system.device)
    torch.linalg.cholesky_ex(factor, out=(factor, info))
    if int(info):
        raise CannotFold("the normal equations are not positive definite: the features are zero or not finite")
    forward = torch.linalg.solve_triangular(factor, right, upper=False)
    solution: Tensor = torch.linalg.solve_triangular(factor.mT, forward, upper=True)
    return solution


def _with_room(needed: int, device: torch.device, equations: str) -> torch.device:
    """The device, or else the CPU: the first that has float64 and room for so many bytes. Raises `CannotFold`."""
    try:
        return exact_device_with_room(needed, device, f"normal equations of {equations} take")
    except MemoryError as error:
        raise CannotFold(str(error)) from error


def weighted(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """√w `[N, 1]`, and h and y times it."""
    target = exact(target)
    root = target.square().sum(-1, keepdim=True).clamp_min(1e-30).rsqrt()
    return root, exact(output) * root, target * root


def _chunks(batches: Sequence[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    for batch in batches:
        yield from zip(*(each.split(CHUNK) for each in batch), strict=True)
