"""Run a whole model as if some of its layers were removed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from sglp_core.structure.layer_calls import KeywordArguments, layer_input


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
