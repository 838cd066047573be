"""The hidden states in the arguments and the output of a layer, whatever family it is of."""

from typing import Any

from torch import Tensor

# The keyword arguments of a forward pass: masks, positions, and others that each family names itself.
KeywordArguments = dict[str, Any]


def layer_input(args: tuple[Any, ...], kwargs: KeywordArguments) -> Tensor:
    """The hidden states a layer was called with: its first positional argument, or `hidden_states`."""
    hidden = args[0] if args else kwargs["hidden_states"]
    assert isinstance(hidden, Tensor)
    return hidden


def layer_output(output: Any) -> Tensor:
    """The hidden states that a layer returns: the output itself, or the first of a tuple."""
    hidden = output[0] if isinstance(output, tuple) else output
    assert isinstance(hidden, Tensor)
    return hidden
