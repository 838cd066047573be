"""Give the residual stream back the size it had: removed layers made it grow by α, what follows is made smaller by α.

In a pre-norm model everything that reads the stream normalises it first, so multiplying the stream by α at the cut is
the same as dividing every later write by α (LinearPatch, arXiv 2505.24680, multiplies at the cut with a new layer; here
the model keeps its stock form). The two differ only by the epsilon of the norms. Neither embeddings nor head change, so
it is all one whether they are tied. In a post-norm model the norm before the cut takes the factor itself.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sglp_core.repair.fold import fold
from sglp_core.repair.residual_writes import NoForm, Writes
from sglp_core.structure.layer_calls import layer_output


class Growth:
    """α = mean over positions of ‖y‖ / ‖x‖: how much longer the stream would have left the removed run than it is."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def add(self, given: Tensor, wanted: Tensor) -> None:
        """`[N, D]` each: x as it enters the cut, y as the dense model hands it on behind the cut."""
        ratio = wanted.double().norm(dim=-1) / given.double().norm(dim=-1).clamp_min(1e-30)
        self._sum += float(ratio.sum())
        self._count += len(ratio)

    def alpha(self) -> float:
        return self._sum / self._count


def fold_growth(model: Any, alpha: float, before: Writes | None, behind: Sequence[Writes]) -> dict[str, Tensor]:
    """New parameters that act like multiplying the stream by `alpha` at a cut.

    `before` are the writes of the kept layer before the cut, `behind` those of each kept layer behind it. Raises
    `NoForm` where nothing can take the factor.
    """
    factor = torch.tensor(alpha)
    if any(writes.whole for writes in behind):
        if before is None or not before.whole:
            raise NoForm("the norm before the cut is not the output of a layer")
        write = before.modules[0]
        return fold(model, write, factor, torch.zeros(()) if write.form == "norm" else None)
    if not behind:
        raise NoForm("no layer follows the cut, and the final norm undoes every factor")
    new: dict[str, Tensor] = {}
    for writes in behind:
        for write in writes.modules:
            new |= fold(model, write, 1 / factor)
    return new


@contextmanager
def scaled(layer: nn.Module, alpha: float) -> Iterator[None]:
    """The layer hands on `alpha` times what it would: what `fold_growth` must equal."""

    def scale(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = alpha * layer_output(output)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = layer.register_forward_hook(scale)
    try:
        yield
    finally:
        handle.remove()
