"""`batch_norm`: batch-norm statistics re-estimated without the removed layers, from what the norms take in now.

No weight is trained; one forward pass over calibration images gives every layer's statistics.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.execution.weight_changes import Changes
from sglp_core.repair.contract import Attempt, HeldOutQuality, ModelRepair, RepairedAtOnce
from sglp_core.structure.batch_norms import batch_norms_that_stay
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch, logits_of, rebatch_evenly

STATISTICS = ("running_mean", "running_var")


def has_no_batch_norms(model: LayeredModel) -> str | None:
    """The reason why there is nothing to re-estimate, or None."""
    return None if batch_norms_that_stay(model.model, model.path) else "the model has no batch norms"


def repair_batch_norms(
    model: LayeredModel, removed: Sequence[int], fitted: Sequence[Batch], judged: Sequence[Batch]
) -> RepairedAtOnce:
    """The new statistics, and how they do on the judged batches; accepted if there both loss and divergence fall."""
    changes = estimate_statistics(model, removed, fitted)
    quality = evaluate(model, judged, {"before": Variant(removed), "after": Variant(removed, changes)})
    before, after = quality["before"], quality["after"]
    better = after.kl < before.kl and after.perplexity < before.perplexity
    reason = None if better else "held-out loss or divergence does not fall"
    attempt = Attempt(Run(min(removed), max(removed) + 1), "batch_norm", better, reason)
    return changes, attempt, HeldOutQuality(quality["dense"], before, after)


BATCH_NORM = ModelRepair(has_no_batch_norms, repair_batch_norms)


@torch.no_grad()
def estimate_statistics(layered: LayeredModel, removed: Sequence[int], batches: Sequence[Batch]) -> Changes:
    """Mean and variance of every batch norm that stays, averaged over the batches, by the names of their buffers.

    The model itself is left as it was. One image gives nothing: where it is one pixel, it has no variance.
    """
    if sum(len(batch.labels) for batch in batches) < 2:
        return {}
    model, layers = layered.model, layered.layers
    kept = batch_norms_that_stay(model, layered.path, removed)
    with _estimating(kept.values()), bypassed(layers, removed):
        for batch in rebatch_evenly(batches, max(len(batch.labels) for batch in batches)):
            logits_of(model, batch.to(model.device))
        return {f"{name}.{each}": getattr(norm, each).clone() for name, norm in kept.items() for each in STATISTICS}


@contextmanager
def _estimating(norms: Any) -> Iterator[None]:
    """The batch norms normalise by their batch and average what they see from nothing; put back afterwards."""
    norms = list(norms)
    before = [(norm.momentum, {name: buffer.clone() for name, buffer in norm.named_buffers()}) for norm in norms]
    for norm in norms:
        # No momentum: the plain mean over all batches.
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    try:
        yield
    finally:
        for norm, (momentum, buffers) in zip(norms, before, strict=True):
            norm.eval()
            norm.momentum = momentum
            norm.load_state_dict(buffers, strict=False)
