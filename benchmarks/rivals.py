"""Depth pruning as others do it, for comparison: which layers each would remove, and what finding them costs.

Costs are counted in forward passes over the whole calibration set; a backward pass counts as two.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.progress import Phase, Progress, SilentReporter
from sglp_core.structure.layer_calls import layer_input, layer_output
from sglp_core.tasks import Batch, logits_of


def angular_blocks(
    model: nn.Module, layers: nn.ModuleList, batches: Sequence[Batch], counts: Sequence[int]
) -> dict[int, tuple[int, ...]]:
    """The run of layers whose input and output lie at the smallest angle, at the last token of every window.

    Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv 2403.17887. One forward pass.
    """
    angles = np.mean([_angles(_last_hidden(model, layers, batch)) for batch in batches], 0)
    blocks = {}
    for count in counts:
        start = min(range(len(layers) - count + 1), key=lambda first: angles[first, first + count])
        blocks[count] = tuple(range(start, start + count))
    return blocks


def greedy(
    layered: LayeredModel, batches: Sequence[Batch], count: int, on_batch: Callable[[], None]
) -> tuple[tuple[int, ...], np.ndarray]:
    """Layers in the order in which removing one more harms perplexity least (SLEB, arXiv 2402.09025).

    Also the perplexity with each single layer removed, `[L]`, which is its first round (`leave_one_out`). One forward
    pass for each layer left, in each round.
    """

    class Batches(SilentReporter):
        def progress(self, progress: Progress) -> None:
            if progress.done:
                on_batch()

    report, layers = Batches(), layered.layers
    removed: tuple[int, ...] = ()
    rounds = []
    while len(removed) < count:
        sets = {str(i): (*removed, i) for i in range(len(layers)) if i not in removed}
        quality = evaluate(
            layered, batches, {name: Variant(each) for name, each in sets.items()}, Phase(report, "greedy")
        )
        rounds.append({int(name): quality[name].perplexity for name in sets})
        removed = (*removed, min(rounds[-1], key=lambda i: rounds[-1][i]))
    return removed, np.array([rounds[0][i] for i in range(len(layers))])


def greedy_passes(layers: int, count: int) -> int:
    """Forward passes of `greedy` for `count` of `layers` layers, its first round included."""
    return sum(layers - removed for removed in range(count))


@torch.no_grad()
def _last_hidden(model: nn.Module, layers: nn.ModuleList, batch: Batch) -> Tensor:
    """What enters every layer and leaves the last one, at the last token: `[L + 1, B, D]`."""
    hidden: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
        if not hidden:
            hidden.append(layer_input(args, kwargs)[:, -1])
        hidden.append(layer_output(output)[:, -1])

    handles = [layer.register_forward_hook(keep, with_kwargs=True) for layer in layers]
    logits_of(model, batch)
    for handle in handles:
        handle.remove()
    return torch.stack(hidden).float()


def _angles(hidden: Tensor) -> np.ndarray:
    unit = nn.functional.normalize(hidden, dim=-1)
    cosine = torch.einsum("ibd,jbd->ijb", unit, unit).clamp(-1, 1)
    angles: np.ndarray = (cosine.arccos() / torch.pi).mean(-1).numpy()
    return angles
