"""`compensate`: the removed layers made the residual stream grow by α, so every later write is made smaller by α.

In a pre-norm model everything that reads the stream normalises it first, so multiplying the stream by α at the cut is
the same as dividing every later write by α (LinearPatch, arXiv 2505.24680, multiplies at the cut with a new layer; here
the model keeps its stock form). The two differ only by the epsilon of the norms. Neither embeddings nor head change, so
tied and untied models are the same case. In a post-norm model the norm before the cut takes the factor itself.
"""

import torch

from sglp_core.execution.native_types import exact
from sglp_core.repair.contract import Candidate, CutRepair
from sglp_core.repair.cut import Cut
from sglp_core.repair.fold import fold
from sglp_core.repair.residual_stream import CutStreams
from sglp_core.repair.writes.residual_writes import CannotFold
from sglp_core.tasks import Batch


class Compensation:
    """α = mean over positions of ‖y‖ / ‖x‖, with x the stream that enters the cut and y the target after it."""

    def __init__(self, cut: Cut) -> None:
        """Raises `CannotFold` where what follows the cut does not undo a factor."""
        self._cut, after = cut, cut.writes_after()
        self._norm = None
        if any(writes.whole for writes in after):
            before = cut.writes_before()
            if not before.whole:
                raise CannotFold("the norm before the cut is not the output of a layer")
            # A post-norm stream has its size from its norms alone, wherever a factor goes.
            self._norm = before.modules[0]
        elif not after:
            raise CannotFold("no layer follows the cut, and the final norm undoes every factor")
        self._sum = 0.0
        self._count = 0

    def add(self, _batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
        assert not held_out
        # The first position's massive activation says nothing of the others, and it is one factor for all.
        pruned, target = exact(streams.pruned), exact(streams.target)
        ratio = (target.norm(dim=-1) / pruned.norm(dim=-1).clamp_min(1e-30))[~streams.first.to(target.device)]
        self._sum += float(ratio.sum())
        self._count += len(ratio)

    def build(self, _shrinkage: float) -> Candidate:
        alpha = self._sum / self._count
        if self._norm is None:
            return Candidate({}, alpha, alpha)
        shift = torch.zeros(()) if self._norm.operation == "norm" else None
        return Candidate(fold(self._cut.model, self._norm, torch.tensor(alpha), shift), alpha)


COMPENSATE = CutRepair(Compensation, scales=True)
