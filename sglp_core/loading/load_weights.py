"""Load the weights of a model and check that none is missing, has another shape, or is infinite or NaN."""

from pathlib import Path
from typing import Any

import transformers

from sglp_core.errors import UnsafeFormat, as_unsupported
from sglp_core.execution.finite_weights import require_finite, require_loaded


def load_in_memory(
    stock: type[transformers.PreTrainedModel], directory: Path, config: transformers.PretrainedConfig
) -> Any:
    """The model of a checked directory, in the dtype of its files.

    Raises `UnsafeFormat` where a weight is missing, has another shape or is not finite, and `UnsupportedArchitecture`
    where transformers cannot load it.
    """
    with as_unsupported("transformers cannot load the weights"):
        model, info = stock.from_pretrained(
            directory, config=config, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
        )
    # transformers fills both mismatched and missing weights with random numbers.
    if info["mismatched_keys"]:
        name, stored, expected = min(info["mismatched_keys"])
        raise UnsafeFormat(
            f"{name} has the shape {list(stored)}, but by config.json it should have the shape {list(expected)}"
        )
    require_loaded(info["missing_keys"])
    require_finite(model.named_parameters())
    return model
