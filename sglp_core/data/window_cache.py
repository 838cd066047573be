"""What a model writes itself costs more time than measuring on it, and the same settings give the same text again."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from sglp_core.data.token_windows import Windows
from sglp_core.loading.cache_key import common_key
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.options import Calibration
from sglp_core.result_cache import Cache, Entry


def find_or_write(
    loaded: LoadedModel, calibration: Calibration, count: int, folder: Path, write: Callable[[], Windows]
) -> Windows:
    """`count` windows of the model's own text: those in `folder`, else what `write()` gives, which is then kept."""
    # How the `count` windows are later shared between measuring and judging does not change them.
    key = common_key(loaded) | {"calibration": asdict(calibration) | {"samples": count}}
    cache = Cache(folder / "windows")
    entry = cache.find(key)
    if entry is not None:
        return Windows(*(torch.from_numpy(entry.arrays[name]) for name in ("input_ids", "attention_mask")))
    windows = write()
    cache.keep(
        key,
        Entry({"input_ids": windows.input_ids.numpy(), "attention_mask": windows.attention_mask.numpy()}, {}),
    )
    return windows
