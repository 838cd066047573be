"""One forward and backward pass over the calibration batches, from which similarity and importance are computed."""

from collections.abc import Sequence

import torch

from sglp_core.analysis.criteria import LayerTrace
from sglp_core.analysis.layerwise_tracing import trace_layerwise
from sglp_core.analysis.resident_tracing import trace_resident
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.analysis.traced_run import TracedRun
from sglp_core.errors import BadCalibration
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.progress import Phase, silent_phase
from sglp_core.structure.runs import Stage
from sglp_core.tasks import Batch


def trace(
    model: LayeredModel,
    batches: Sequence[Batch],
    similarity: SimilarityAccumulator,
    seed: int = 0,
    stages: Sequence[Stage] = (),
    progress: Phase | None = None,
) -> LayerTrace:
    """Measure every batch once; adds the outputs of the layers to `similarity` and returns the other measurements.

    There is one stage for the whole stack by default. Raises `BadCalibration` where the loss is not finite.
    """
    if not batches:
        raise BadCalibration("there is no calibration batch to measure")
    progress = progress or silent_phase()
    generator = torch.Generator().manual_seed(seed)
    whole = (Stage(0, len(model.layers)),)
    run = TracedRun(model, batches, similarity, generator, stages or whole, progress)
    if model.weights.resident or model.layerwise is None:
        # One copy of the weights serves forward and backward pass, which is faster than computing layers twice.
        progress.start(len(batches), "batches")
        return trace_resident(run)
    progress.start(2 * len(model.layers) + len(batches), "steps")
    return trace_layerwise(run, model.layerwise)
