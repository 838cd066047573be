"""`compensate`: the removed layers made the residual stream grow by α, so every later write is made smaller by α.

In a pre-norm model everything that reads the stream normalises it first, so multiplying the stream by α at the cut is
the same as dividing every later write by α (LinearPatch, arXiv 2505.24680, multiplies at the cut with a new layer; here
the model keeps its stock form). The two differ only by the epsilon of the norms. Neither embeddings nor head change, so
tied and untied models are the same case. In a post-norm model the norm before the cut takes the factor itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sglp_core.evaluation.logits import TOLERANCES, difference, probe_logits
from sglp_core.execution.bypass import bypassed
from sglp_core.execution.weight_changes import swapped
from sglp_core.repair.contract import Candidate, CutRepair
from sglp_core.repair.cut import Cut
from sglp_core.repair.fold import fold
from sglp_core.repair.residual_stream import CutStreams
from sglp_core.repair.residual_writes import CannotFold, LayerWrites
from sglp_core.structure.layer_calls import layer_output
from sglp_core.tasks import Batch

# How far a folded factor may be from the same factor at the cut, relative, in logits: the epsilon of the norms.
FOLD_TOLERANCE = 1e-2


class Compensation:
    """α = mean over positions of ‖y‖ / ‖x‖, with x the stream that enters the cut and y the target after it."""

    def __init__(self, cut: Cut) -> None:
        """Raises `CannotFold` where the writes of a layer after the cut are not found."""
        self._cut, self._after = cut, cut.writes_after()
        self._sum = 0.0
        self._count = 0

    def add(self, _batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
        assert not held_out
        # The first position's massive activation says nothing of the others, and it is one factor for all.
        pruned, target = streams.pruned[~streams.first], streams.target[~streams.first]
        ratio = target.double().norm(dim=-1) / pruned.double().norm(dim=-1).clamp_min(1e-30)
        self._sum += float(ratio.sum())
        self._count += len(ratio)

    def build(self, _shrinkage: float) -> Candidate:
        cut, alpha = self._cut, self._sum / self._count
        new = fold_growth(cut.model, alpha, self._before(), self._after)
        inputs = cut.finder.probe.inputs
        with bypassed(cut.layers, cut.removed):
            with swapped(cut.model, new):
                folded = probe_logits(cut.model, inputs)
            with scaled(cut.layers[cut.run.stop - 1], alpha):
                at_cut = probe_logits(cut.model, inputs)
        error = difference(folded, at_cut)
        if not error <= max(FOLD_TOLERANCE, TOLERANCES[folded.dtype]):
            raise CannotFold(f"what follows the cut does not undo a factor: logits differ by {error:.1e}")
        # A post-norm stream has its size from its norms alone, wherever a factor went.
        return Candidate(new, alpha, 1.0 if any(writes.whole for writes in self._after) else alpha)

    def _before(self) -> LayerWrites | None:
        try:
            return self._cut.writes_before()
        except CannotFold:
            return None


COMPENSATE = CutRepair(Compensation, scales=True)


def fold_growth(
    model: Any, alpha: float, before: LayerWrites | None, after: Sequence[LayerWrites]
) -> dict[str, Tensor]:
    """New parameters that act like multiplying the stream by `alpha` at a cut.

    `before` are the writes of the kept layer before the cut, `after` those of each kept layer after it. Raises
    `CannotFold` where nothing can take the factor.
    """
    factor = torch.tensor(alpha)
    if any(writes.whole for writes in after):
        if before is None or not before.whole:
            raise CannotFold("the norm before the cut is not the output of a layer")
        write = before.modules[0]
        return fold(model, write, factor, torch.zeros(()) if write.operation == "norm" else None)
    if not after:
        raise CannotFold("no layer follows the cut, and the final norm undoes every factor")
    new: dict[str, Tensor] = {}
    for writes in after:
        for write in writes.modules:
            new |= fold(model, write, 1 / factor)
    return new


@contextmanager
def scaled(layer: nn.Module, alpha: float) -> Iterator[None]:
    """The output of the layer times `alpha`: what `fold_growth` must equal."""

    def scale(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = alpha * layer_output(output)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = layer.register_forward_hook(scale)
    try:
        yield
    finally:
        handle.remove()
