"""What `evaluation.evaluate` judges, for a model whose weights stay on disk: every variant in one walk over the layers.

A layer is loaded once for all batches and variants. A variant without it hands its hidden states on as they are, and
variants that have lost the same layers so far are one.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from sglp_core.evaluation.quality import Quality, compared, evaluate, log_probabilities, quality_of
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.removal.weight_changes import Changes
from sglp_core.tasks import Batch, Task


@evaluate.register
@torch.no_grad()
def evaluate_streamed(
    model: StreamedModel,
    layers: nn.ModuleList,  # noqa: ARG001 - the signature of `evaluate`
    batches: Iterable[Batch],
    task: Task,
    variants: Mapping[str, Sequence[int]],
    on_batch: Callable[[], None] = lambda: None,
    weights: Mapping[str, Changes] = MappingProxyType({}),
) -> dict[str, Quality]:
    """Quality of the dense model (under `dense`) and of each variant, as `evaluate` gives it; no weights change."""
    assert not any(weights.values())
    names = ["dense", *variants]
    sums = {name: torch.zeros(4, dtype=torch.float64) for name in names}
    positions = 0
    batches = list(batches)
    states = dict(zip(names, leaving_states(model, batches, [(), *variants.values()]), strict=True))
    with model.outside():
        for number, batch in enumerate(batches):
            dense, labels = log_probabilities(model.logits(batch, states["dense"][number]), batch.labels, task)
            positions += len(labels)
            for name in names:
                logits = model.logits(batch, states[name][number])
                sums[name] += compared(dense, log_probabilities(logits, batch.labels, task)[0], labels)
            on_batch()
    return {name: quality_of(total, positions) for name, total in sums.items()}


@torch.no_grad()
def leaving_states(
    model: StreamedModel, batches: Sequence[Batch], variants: Sequence[Sequence[int]]
) -> list[list[Tensor]]:
    """What leaves the stack: for each variant (a set of removed layers) every batch's hidden states `[B, T, D]`."""
    entries = model.entries(batches)
    # By the layers that are gone so far: what each batch is by then.
    states: dict[tuple[int, ...], list[Tensor]] = {(): [entry.hidden for entry in entries]}
    for index in range(len(model.layers)):
        gone = {tuple(sorted(i for i in removed if i <= index)) for removed in variants}
        with model.layer(index) as layer:
            states = {
                now: states[now[:-1]]
                if now[-1:] == (index,)
                else [
                    model.keep(entry.calls[index].run(layer, hidden))
                    for entry, hidden in zip(entries, states[now], strict=True)
                ]
                for now in gone
            }
    return [states[tuple(sorted(removed))] for removed in variants]
