"""Cache the calibration text that a model generates: generating takes longer than the analysis on it."""

from collections.abc import Callable
from dataclasses import asdict

import torch

from sglp_core.data.token_windows import Windows
from sglp_core.loading.cache_key import common_key
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.options import Calibration
from sglp_core.result_cache import Cache, CachedResult


def find_or_generate(
    loaded: LoadedModel, calibration: Calibration, count: int, cache: Cache, generate: Callable[[], Windows]
) -> Windows:
    """`count` windows of the model's own text: those in `cache`, else those of `generate()`, then cached."""
    # `samples` is replaced: how many of the `count` windows are later held out does not change their text.
    key = common_key(loaded) | {"calibration": asdict(calibration) | {"samples": count}}
    cached = cache.find(key)
    if cached is not None:
        return Windows(*(torch.from_numpy(cached.arrays[name]) for name in ("input_ids", "attention_mask")))
    windows = generate()
    cache.keep(
        key,
        CachedResult({"input_ids": windows.input_ids.numpy(), "attention_mask": windows.attention_mask.numpy()}, {}),
    )
    return windows
