"""Cache of analyses: later jobs on the same model and data take the analysis from it, whatever their target."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from sglp_core.analysis.criteria import CRITERIA
from sglp_core.analysis.result import Analysis
from sglp_core.analysis.segmentation import segment
from sglp_core.data.calibration_data import CalibrationData
from sglp_core.loading.cache_key import common_key
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.options import Method
from sglp_core.result_cache import Cache, CachedResult, key_digest

FACTS = ("estimator", "kernel", "n_samples", "sample_unit")
SCORES = ("importance", "run_importance")


@dataclass(frozen=True)
class Origin:
    """The origin of an analysis: `key` is the SHA-256 of all that it depends on, `reused` is whether it was cached."""

    key: str
    reused: bool


def find_or_measure(
    loaded: LoadedModel, data: CalibrationData, method: Method, cache: Cache, measure: Callable[[], Analysis]
) -> tuple[Analysis, Origin]:
    """The analysis of this model on this data: the one in `cache`, else what `measure()` gives, which is then kept.

    Segments are no part of the key: they are computed again from the matrix, which takes no time.
    """
    key = common_key(loaded) | {
        "calibration": data.calibration_digest,
        "batch_size": data.batch_size,
        "seed": data.seed,
        "estimator": method.estimator,
        "kernel": method.kernel,
        "criteria": {name: sha256(each.source().encode()).hexdigest() for name, each in CRITERIA.items()},
    }
    cached = cache.find(key)
    if cached is not None:
        return _from_cached(cached, loaded, method), Origin(key_digest(key), True)
    analysis = measure()
    cache.keep(key, _to_cached(analysis))
    return analysis, Origin(key_digest(key), False)


def _to_cached(analysis: Analysis) -> CachedResult:
    arrays = {"similarity": analysis.similarity}
    for group in SCORES:
        arrays |= {f"{group}/{name}": scores for name, scores in getattr(analysis, group).items()}
    return CachedResult(arrays, {name: getattr(analysis, name) for name in FACTS})


def _from_cached(cached: CachedResult, loaded: LoadedModel, method: Method) -> Analysis:
    scores: dict[str, dict[str, np.ndarray]] = {group: {} for group in SCORES}
    for name, array in cached.arrays.items():
        group, _, criterion = name.partition("/")
        if group in scores:
            scores[group][criterion] = array
    matrix = cached.arrays["similarity"]
    return Analysis(
        stack=loaded.stack,
        similarity=matrix,
        segmentation=segment(matrix, method.segments, method.feature, loaded.stack.stages),
        importance=scores["importance"],
        run_importance=scores["run_importance"],
        **{name: cached.facts[name] for name in FACTS},
    )
