"""Load all weights of a model into memory and check that none is missing, has another shape, or is infinite or NaN."""

from pathlib import Path
from typing import Any

import torch
import transformers

from sglp_core.checkpoints.weight_checks import require_finite, require_loaded, require_shapes
from sglp_core.errors import as_unsupported


def load_in_memory(
    stock: type[transformers.PreTrainedModel],
    directory: Path,
    config: transformers.PretrainedConfig,
    dtype: torch.dtype,
) -> Any:
    """The model of a checked directory, in a type.

    Raises `UnsafeFormat` where a weight is missing, has another shape or is not finite, and `UnsupportedArchitecture`
    where transformers cannot load it.
    """
    with as_unsupported("transformers cannot load the weights"):
        model, info = stock.from_pretrained(
            directory, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    # transformers fills both mismatched and missing weights with random numbers.
    require_shapes(info["mismatched_keys"])
    require_loaded(info["missing_keys"])
    require_finite(model.named_parameters())
    return model
