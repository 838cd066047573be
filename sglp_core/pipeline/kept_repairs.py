"""Keep repairs on disk: fitting them takes several passes over the calibration data."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sglp_core.evaluation.quality import Quality
from sglp_core.repair.contract import Attempt, HeldOutQuality
from sglp_core.repair.repair import Repaired
from sglp_core.result_cache import Cache, CachedResult, Key
from sglp_core.structure.runs import Run


def find_or_repair(cache: Cache, key: Key, repair: Callable[[], list[Repaired]]) -> list[Repaired]:
    """The repairs of this key in the cache, else those of `repair()`, which are then kept; weights on the CPU."""
    found = cache.find(key)
    if found is not None:
        return [_from_cached(number, facts, found.arrays) for number, facts in enumerate(found.facts["repaired"])]
    repaired = repair()
    cache.keep(key, _to_cached(repaired))
    return repaired


def _to_cached(repaired: Sequence[Repaired]) -> CachedResult:
    arrays: dict[str, np.ndarray] = {}
    facts = []
    for number, each in enumerate(repaired):
        arrays |= {f"{number}/{name}": _as_bytes(tensor) for name, tensor in each.changes.items()}
        facts.append(
            {
                "forms": {name: _form_of(tensor) for name, tensor in each.changes.items()},
                "attempts": [asdict(attempt) for attempt in each.attempts],
                "windows": [each.fitted_windows, each.judged_windows],
                "quality": each.quality and asdict(each.quality),
            }
        )
    return CachedResult(arrays, {"repaired": facts})


def _from_cached(number: int, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> Repaired:
    changes: dict[str, Tensor] = {}
    for name, (dtype, shape) in facts["forms"].items():
        changes[name] = torch.from_numpy(arrays[f"{number}/{name}"]).view(getattr(torch, dtype)).view(shape)
    attempts = tuple(Attempt(**each | {"cut": Run(*each["cut"])}) for each in facts["attempts"])
    fitted, judged = facts["windows"]
    return Repaired(changes, attempts, fitted, judged, _quality_from(facts["quality"]))


def _quality_from(facts: dict[str, Any] | None) -> HeldOutQuality | None:
    if facts is None:
        return None
    qualities = {name: values and Quality(**values) for name, values in facts.items()}
    return HeldOutQuality(**qualities)


def _form_of(tensor: Tensor) -> tuple[str, list[int]]:
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape)


def _as_bytes(tensor: Tensor) -> np.ndarray:
    # numpy does not know bfloat16.
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
