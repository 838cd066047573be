"""`evaluate` for a model whose weights stay on disk: all variants in one pass over the layers.

A layer is loaded once for all batches and variants. A variant without it keeps its hidden states, and variants that
have lost the same layers so far share theirs.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sglp_core.evaluation.quality import Quality, compared, log_probabilities, quality_of, run_variants
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.progress import Phase
from sglp_core.removal.variant import Variant
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.tasks import Batch


@run_variants.register
def run_streamed_variants(
    model: StreamedModel,
    layered: LayeredModel,
    batches: Sequence[Batch],
    variants: Mapping[str, Variant],
    progress: Phase,
) -> dict[str, Quality]:
    """Quality of the dense model, under the name `dense`, and of each variant; no weights change."""
    assert not any(variant.changes for variant in variants.values())
    names = ["dense", *variants]
    sums = {name: torch.zeros(4, dtype=torch.float64) for name in names}
    positions = 0
    removed = [(), *(variant.removed for variant in variants.values())]
    states = dict(zip(names, leaving_states(model, batches, removed), strict=True))
    with model.outside():
        for number, batch in enumerate(batches):
            dense, labels = log_probabilities(model.logits(batch, states["dense"][number]), batch.labels, layered.task)
            positions += len(labels)
            for name in names:
                logits = model.logits(batch, states[name][number])
                sums[name] += compared(dense, log_probabilities(logits, batch.labels, layered.task)[0], labels)
            progress.advance()
    return {name: quality_of(total, positions) for name, total in sums.items()}


@torch.no_grad()
def leaving_states(
    model: StreamedModel, batches: Sequence[Batch], variants: Sequence[Sequence[int]]
) -> list[list[Tensor]]:
    """The output of the stack for each variant (a set of removed layers): hidden states `[B, T, D]` of every batch."""
    inputs = model.stack_inputs(batches)
    # The hidden states of every batch, by the layers removed so far.
    states: dict[tuple[int, ...], list[Tensor]] = {(): [stack_input.hidden for stack_input in inputs]}
    for index in range(len(model.layers)):
        gone = {tuple(sorted(i for i in removed if i <= index)) for removed in variants}
        with model.layer(index) as layer:
            states = {
                now: states[now[:-1]]
                if now[-1:] == (index,)
                else [
                    model.keep(stack_input.calls[index].run(layer, hidden))
                    for stack_input, hidden in zip(inputs, states[now], strict=True)
                ]
                for now in gone
            }
    return [states[tuple(sorted(removed))] for removed in variants]
