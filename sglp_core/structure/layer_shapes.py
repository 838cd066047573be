"""The shapes of the hidden states that enter and leave each layer, which must be alike for a layer to be left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.structure.layer_calls import KeywordArguments, layer_input, layer_output
from sglp_core.structure.stages import Shapes


def call_shapes(model: Any, names: Sequence[str], inputs: dict[str, Tensor]) -> dict[str, list[Shapes]]:
    """Shapes of the hidden states that enter and leave each module, for each of its calls.

    Raises `UnsupportedArchitecture` where a module returns a named tuple, of which a bypass could not return the like.
    """
    shapes: dict[str, list[Shapes]] = {name: [] for name in names}

    def hook(name: str) -> Any:
        def record(_module: nn.Module, args: tuple[Any, ...], kwargs: KeywordArguments, output: Any) -> None:
            if isinstance(output, tuple) and type(output) is not tuple:
                raise UnsupportedArchitecture(
                    f"the layers of {type(model).__name__} return a {type(output).__name__}; looked for hidden states, "
                    "alone or first in a tuple"
                )
            shapes[name].append((layer_input(args, kwargs).shape, layer_output(output).shape))

        return record

    handles = [model.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in names]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def require_alike(model: Any, shapes: Mapping[str, Sequence[Shapes]], tokens: int | None) -> None:
    """Raise `UnsupportedArchitecture` where a layer cannot be left out, by the shapes of one sample.

    `tokens` are those of a text, of which each has one vector in the hidden states; None for images.
    """
    if any(len(calls) != 1 or calls[0][0] != calls[0][1] for calls in shapes.values()):
        raise UnsupportedArchitecture(
            f"the layers of {type(model).__name__} cannot be removed one by one: some do not run exactly once, or "
            "their output does not have the shape of their input"
        )
    for (shape, _), *_ in shapes.values():
        if tokens is not None and (len(shape) != 3 or shape[:2] != (1, tokens)):
            raise UnsupportedArchitecture(
                f"the layers of {type(model).__name__} get hidden states of shape {tuple(shape)} for {tokens} tokens; "
                f"looked for one vector a token, (1, {tokens}, width). Where it pads texts to a multiple, give a "
                "sequence_length that is one"
            )
