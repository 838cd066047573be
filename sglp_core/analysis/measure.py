"""From the calibration batches to an analysis."""

import numpy as np

from sglp_core.analysis.criteria import CRITERIA, LayerTrace
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
    importance, run_importance = _scores(traced, len(loaded.stack))
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
    )


def _scores(traced: LayerTrace, layers: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The scores of layers and of runs by every criterion. Raises `ValueError` where a criterion's shape is wrong."""
    importance: dict[str, np.ndarray] = {}
    run_importance: dict[str, np.ndarray] = {}
    for name, criterion in CRITERIA.items():
        importance[name] = _of_shape((layers,), criterion.scores(traced), name)
        if criterion.run_scores is not None:
            run_importance[name] = _of_shape((layers + 1, layers + 1), criterion.run_scores(traced), name)
    return importance, run_importance


def _of_shape(shape: tuple[int, ...], scores: np.ndarray, criterion: str) -> np.ndarray:
    if scores.shape != shape:
        raise ValueError(f"the criterion {criterion} returns scores of shape {scores.shape}, and not {shape}")
    return scores
