"""Checks of weights: none is missing, has another shape than the model needs, or is infinite or NaN."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sglp_core.errors import UnsafeFormat


def require_loaded(missing: Iterable[str]) -> None:
    """Raise `UnsafeFormat` where any parameter names are `missing` from the weights."""
    names = sorted(missing)
    if names:
        raise UnsafeFormat(f"the weights hold no {', '.join(names[:5])}, which the model of config.json needs")


def require_shapes(mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> None:
    """Raise `UnsafeFormat` for the first of some tensors, each with its stored shape and the one the model needs."""
    for name, stored, expected in sorted(mismatched):
        raise UnsafeFormat(
            f"{name} has the shape {list(stored)}, but by config.json it should have the shape {list(expected)}"
        )


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
