"""Run the dense model as if some layers were removed, computing only what differs from the dense model.

Removed layers are not run. Neither are the layers before the first that is removed or has changed weights: their
outputs were remembered when the dense model ran. The result is bit for bit that of `bypassed`, which runs every layer.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from sglp_core.removal.weight_changes import Changes, tensor_named
from sglp_core.structure.config_renumbering import TAILS
from sglp_core.structure.layer_calls import KeywordArguments, layer_input


class Skipper:
    """Remembers the input of each layer in the last dense run, for variants that run on the same batch.

    In models whose layers return more than hidden states, or take keys and values from an earlier layer, every layer is
    run and the removed ones are bypassed.
    """

    def __init__(self, model: Any, layers: nn.ModuleList) -> None:
        self._model, self._layers = model, layers
        self._inputs: list[Tensor] = []
        text = model.config.get_text_config()
        self._simple = not any(getattr(text, name, None) for name in TAILS)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Remember the input of every layer while the dense model runs."""
        self._inputs.clear()

        def remember(_module: nn.Module, args: tuple[Any, ...], kwargs: KeywordArguments, output: Any) -> None:
            self._inputs.append(layer_input(args, kwargs))
            self._simple &= isinstance(output, Tensor)

        handles = [layer.register_forward_hook(remember, with_kwargs=True) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def without(self, removed: Sequence[int], changes: Changes = MappingProxyType({})) -> Iterator[None]:
        """The model, on the batch that it was watched on, as if the layers were removed.

        `changes` are the weights that differ from those it was watched with; the caller swaps them in.
        """
        if not self._simple:
            with bypassed(self._layers, removed):
                yield
            return
        changed = [self._first_of(name) for name in changes]
        # A changed parameter outside of the layers may lie before them, and then no remembered input is right.
        inputs_hold = None not in changed
        first = min([*removed, *(index for index in changed if index is not None)], default=0)
        replaced = {*removed, *(range(first + 1) if inputs_hold else ())}
        try:
            for index in replaced:
                layer = self._layers[index]
                remembered = self._inputs[first] if inputs_hold and index == first else None
                layer.forward = (
                    _returning_input(remembered)
                    if index in removed or index < first
                    else _starting_from(layer, remembered)
                )
            yield
        finally:
            for index in replaced:
                vars(self._layers[index]).pop("forward", None)

    def _first_of(self, name: str) -> int | None:
        """The first layer that has this parameter or buffer; None where it is outside of the layers."""
        tensor = tensor_named(self._model, name)
        having = (
            index
            for index, layer in enumerate(self._layers)
            if any(each is tensor for each in (*layer.parameters(), *layer.buffers()))
        )
        return next(having, None)


def _returning_input(remembered: Tensor | None) -> Any:
    """The forward of a layer that returns its input, or the remembered hidden states."""

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return layer_input(args, kwargs) if remembered is None else remembered

    return forward


def _starting_from(layer: nn.Module, remembered: Tensor | None) -> Any:
    """The forward of the layer on the remembered hidden states instead of its input."""
    own = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return own(remembered, *args[1:], **kwargs) if args else own(**{**kwargs, "hidden_states": remembered})

    return forward


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
