"""Load the weights of a model, and look at them once: all there, of the right shapes, and finite."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from sglp_core.errors import UnsafeFormat, as_unsupported


def load_whole(
    stock: type[transformers.PreTrainedModel], directory: Path, config: transformers.PretrainedConfig
) -> Any:
    """The model of a checked directory in its own dtype.

    Raises `UnsafeFormat` where a weight is missing, of another shape or not finite, and `UnsupportedArchitecture` where
    transformers cannot load it.
    """
    with as_unsupported("transformers cannot load the weights"):
        model, info = stock.from_pretrained(
            directory, config=config, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True
        )
    # Loaded all the same, either would be random numbers.
    if info["mismatched_keys"]:
        name, stored, expected = min(info["mismatched_keys"])
        raise UnsafeFormat(f"{name} has the shape {list(stored)}, and config.json makes it {list(expected)}")
    require_loaded(info["missing_keys"])
    require_finite(model.named_parameters())
    return model


def require_loaded(missing: Iterable[str]) -> None:
    """Raises `UnsafeFormat` where there are names of parameters that the weights do not hold."""
    names = sorted(missing)
    if names:
        raise UnsafeFormat(f"the weights hold no {', '.join(names[:5])}, which the model of config.json has")


def require_finite(parameters: Iterable[tuple[str, Tensor | nn.Parameter]]) -> None:
    """Raises `UnsafeFormat` for the first tensor with a value that is infinite or not a number: every measurement of
    such a model, and the smaller model itself, would be one too.
    """
    for name, parameter in parameters:
        if parameter.numel() and parameter.is_floating_point():
            # Types of a byte have no extremes of their own.
            values = parameter.detach() if parameter.element_size() > 1 else parameter.detach().float()
            if not torch.stack(values.aminmax()).isfinite().all():
                raise UnsafeFormat(f"{name} holds values that are infinite or not a number")
