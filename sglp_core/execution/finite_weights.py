"""Checks of weights that were loaded: none is missing, infinite or NaN."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sglp_core.errors import UnsafeFormat


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
