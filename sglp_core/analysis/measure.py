"""From the calibration batches to an analysis."""

import numpy as np

from sglp_core.analysis.importance import CRITERIA, RUN_CRITERIA
from sglp_core.analysis.result import Analysis
from sglp_core.analysis.segmentation import segment
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.analysis.tracing import trace
from sglp_core.data.calibration_data import Data
from sglp_core.errors import BadCalibration
from sglp_core.loading.loaded_model import Opened
from sglp_core.options import Calibration, Method
from sglp_core.progress import Observer, Silent, reporter
from sglp_core.structure.layer_stack import layers_of


def measure(
    opened: Opened, data: Data, method: Method, calibration: Calibration, observer: Observer = Silent()
) -> Analysis:
    """One forward and backward pass over the calibration batches, then the segments."""
    batches = data.calibration(opened)
    tell = reporter(observer, "measuring")
    done = iter(range(1, len(batches) + 1))
    tell(0, len(batches), "batches")
    similarity = SimilarityAccumulator(method.estimator, method.kernel)
    layers = layers_of(opened.model, opened.stack.path)
    traced = trace(
        opened.model,
        layers,
        batches,
        opened.task,
        similarity,
        calibration.seed,
        lambda: tell(next(done), len(batches), "batches"),
        opened.stack.stages,
    )
    matrix = similarity.matrix()
    importance = {name: criterion(traced) for name, criterion in CRITERIA.items()}
    run_importance = {name: criterion(traced) for name, criterion in RUN_CRITERIA.items()}
    broken = [n for n, scores in (importance | run_importance).items() if not np.isfinite(scores).all()]
    if broken:
        raise BadCalibration(
            f"the importance of some layers is not finite ({', '.join(broken)}): the model's gradients overflow in "
            f"{opened.model.dtype}; give the model in float32 or bfloat16"
        )
    return Analysis(
        stack=opened.stack,
        similarity=matrix,
        segmentation=segment(matrix, method.segments, method.feature, opened.stack.stages),
        importance=importance,
        run_importance=run_importance,
        estimator=method.estimator,
        kernel=method.kernel,
        n_samples=similarity.n_samples,
        sample_unit="image" if opened.task == "image_classification" else "token position",
        calibration_digest=data.calibration_digest,
    )
