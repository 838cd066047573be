"""From the calibration batches to an analysis."""

import numpy as np

from sglp_core.analysis.importance import CRITERIA, RUN_CRITERIA
from sglp_core.analysis.result import Analysis
from sglp_core.analysis.segmentation import segment
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.analysis.tracing import trace
from sglp_core.data.calibration_data import CalibrationData
from sglp_core.errors import BadCalibration
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.options import Options
from sglp_core.progress import Phase


def measure(loaded: LoadedModel, data: CalibrationData, options: Options, progress: Phase | None = None) -> Analysis:
    """One forward and backward pass over the calibration batches, then the segments."""
    method = options.method
    similarity = SimilarityAccumulator(method.estimator, method.kernel)
    traced = trace(
        loaded, data.calibration(loaded), similarity, options.calibration.seed, loaded.stack.stages, progress
    )
    matrix = similarity.matrix()
    importance = {name: criterion(traced) for name, criterion in CRITERIA.items()}
    run_importance = {name: criterion(traced) for name, criterion in RUN_CRITERIA.items()}
    broken = [n for n, scores in (importance | run_importance).items() if not np.isfinite(scores).all()]
    if broken:
        raise BadCalibration(
            f"the importance of some layers is not finite ({', '.join(broken)}): the model's gradients overflow in "
            f"{loaded.model.dtype}; give the model in float32 or bfloat16"
        )
    return Analysis(
        stack=loaded.stack,
        similarity=matrix,
        segmentation=segment(matrix, method.segments, method.feature, loaded.stack.stages),
        importance=importance,
        run_importance=run_importance,
        estimator=method.estimator,
        kernel=method.kernel,
        n_samples=similarity.n_samples,
        sample_unit="image" if loaded.task == "image_classification" else "token position",
        calibration_digest=data.calibration_digest,
    )
