"""A variant of a dense model: the layers that are removed from it and the weights that are changed in it.

A removed layer is bypassed, so that one model serves for all variants.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sglp_core.execution.weight_changes import Changes
from sglp_core.structure.layer_calls import KeywordArguments, layer_input


@dataclass(frozen=True)
class Variant:
    """`removed` are layer indices; `changes` are new values of parameters and buffers, by name."""

    removed: Sequence[int] = ()
    changes: Changes = field(default_factory=dict)

    def release(self) -> None:
        """Free the changed weights, once they are written."""
        # Changed in place, because other holders of this object would keep them in memory.
        object.__setattr__(self, "changes", {})


@contextmanager
def bypassed(layers: nn.ModuleList, removed: Sequence[int]) -> Iterator[None]:
    """The dense model as if the layers were removed: each returns its input, and nothing else changes.

    A removal must give the same logits; this needs none of the renumbering that a removal needs.
    """

    def skip(_module: nn.Module, args: tuple[Any, ...], kwargs: KeywordArguments, output: Any) -> Any:
        hidden = layer_input(args, kwargs)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handles = [layers[i].register_forward_hook(skip, with_kwargs=True) for i in removed]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
