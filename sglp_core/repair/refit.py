"""`refit`: new weights of the last write before a cut, fitted against what enters it.

Every map of what a module writes (`least_squares.py`) is also a change of its weights, but where more channels enter
than leave, weights can say more. They can also be fitted too closely, so how far they may move is settled by windows
that were not fitted on. Where the write is a norm, the projection before it is refitted (`refit_through_norm.py`).
"""

from sglp_core.repair.contract import Candidate, CutFit, CutRepair
from sglp_core.repair.cut import Cut
from sglp_core.repair.fold import fold_change, has_shift, weight_shape
from sglp_core.repair.normal_equations import TunedLinearFit
from sglp_core.repair.refit_through_norm import RefitThroughNorm
from sglp_core.repair.residual_stream import CutStreams
from sglp_core.repair.residual_writes import CannotFold
from sglp_core.tasks import Batch


def refit(cut: Cut) -> CutFit:
    """The fit that goes with the last write before the cut. Raises `CannotFold`."""
    return NormRefit(cut) if cut.writes_before().modules[0].operation == "norm" else ProjectionRefit(cut)


class ProjectionRefit:
    """New weights of a projection that writes to the residual stream itself."""

    def __init__(self, cut: Cut) -> None:
        self._model, self._write = cut.model, cut.writes_before().modules[0]
        self._fit = TunedLinearFit(*weight_shape(self._model, self._write), has_shift(self._model, self._write))

    def add(self, _batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
        assert streams.entered is not None
        self._fit.add(streams.entered, streams.pruned, streams.target, held_out=held_out)

    def build(self, shrinkage: float) -> Candidate:
        return Candidate(fold_change(self._model, self._write, *self._fit.solve(shrinkage)))


class NormRefit:
    """New weights of a projection whose output passes a norm before it reaches the residual stream."""

    def __init__(self, cut: Cut) -> None:
        self._cut, self._norm = cut, cut.writes_before().modules[0]
        self._fit = RefitThroughNorm(cut.model, self._norm, cut.projection_before(self._norm))

    def add(self, batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
        features = self._cut.streams(batch, self._fit.projection).entered
        assert features is not None
        self._fit.add(features, streams, held_out=held_out)

    def build(self, shrinkage: float) -> Candidate:
        if shrinkage != 1:
            raise CannotFold(f"{self._norm.module} is a norm, and has its length from itself")
        return Candidate(self._fit.changes())


REFIT = CutRepair(refit, uses_held_out=True)
