"""Fit the last write before a cut anew: a change of its weights, against what enters it.

Every map of what a module writes (`least_squares.py`) is also a change of its weights, but where more channels enter
than leave, weights can say more. They can also be fitted too closely, so how far they may move is settled by windows
that were not fitted on.
"""

from torch import Tensor

from sglp_core.repair.least_squares import LinearFit
from sglp_core.repair.residual_writes import NoForm

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# Normal equations of more channels than this take over a gigabyte each, and several are held.
MOST_FEATURES = 12_288


class Refit:
    """Normal equations of the positions fitted on, and of those that settle the ridge.

    Raises `NoForm` where more than `MOST_FEATURES` channels enter.
    """

    def __init__(self, features: int, size: int, shift: bool) -> None:
        if features > MOST_FEATURES:
            raise NoForm(f"{features} channels enter, and weights of at most {MOST_FEATURES} are fitted anew")
        self._fitted, self._held_out = (LinearFit(features, size, shift) for _ in range(2))

    def add(self, features: Tensor, handed_on: Tensor, wanted: Tensor, *, held_out: bool) -> None:
        """What enters the write `[N, F]`, what its layer hands on and what it should hand on `[N, D]`."""
        (self._held_out if held_out else self._fitted).add(features, handed_on, wanted)

    def solve(self, alpha: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """The change of the weights `[F, D]`, and of the bias `[D]`, for what is wanted over `alpha`.

        Raises `torch.linalg.LinAlgError`.
        """
        ridge = self._fitted.best_ridge(RIDGES, self._held_out, alpha)
        return self._fitted.solve(ridge, alpha)
