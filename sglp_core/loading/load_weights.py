"""Load the weights of a model and check that none is missing, has another shape, or is infinite or NaN."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from sglp_core.errors import UnsafeFormat, as_unsupported


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


def require_loaded(missing: Iterable[str]) -> None:
    """Raise `UnsafeFormat` where any parameter names are `missing` from the weights."""
    names = sorted(missing)
    if names:
        raise UnsafeFormat(f"the weights hold no {', '.join(names[:5])}, which the model of config.json needs")


def require_finite(parameters: Iterable[tuple[str, Tensor | nn.Parameter]]) -> None:
    """Raise `UnsafeFormat` for the first tensor that has an infinite or NaN value.

    All measurements on such a model would be infinite or NaN too, and so would the smaller model.
    """
    for name, parameter in parameters:
        if parameter.numel() and parameter.is_floating_point():
            # PyTorch has no `aminmax` for floats of one byte.
            values = parameter.detach() if parameter.element_size() > 1 else parameter.detach().float()
            if not torch.stack(values.aminmax()).isfinite().all():
                raise UnsafeFormat(f"{name} holds values that are infinite or NaN")
