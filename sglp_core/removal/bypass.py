"""The dense model without some layers, and with some weights changed, computing only what differs from it.

A removed layer is not run at all, and neither are the layers before the first that is removed or has another weight:
what they hand on was seen when the dense model ran. The result is that of `surgery.bypassed`, number for number.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from sglp_core.removal.weight_changes import Changes, held
from sglp_core.structure.config_renumbering import TAILS
from sglp_core.structure.layer_calls import KeywordArguments, layer_input


class Skipper:
    """What entered each layer in the last dense run; one for every model that is compared with its own parts.

    Models whose layers hand on more than hidden states, or take keys and values from an earlier layer, are bypassed by
    running every layer, as `surgery.bypassed` does.
    """

    def __init__(self, model: Any, layers: nn.ModuleList) -> None:
        self._model, self._layers = model, layers
        self._entering: list[Tensor] = []
        text = model.config.get_text_config()
        self._simple = not any(getattr(text, name, None) for name in TAILS)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Remember what enters every layer while the dense model runs."""
        self._entering.clear()

        def remember(_module: nn.Module, args: tuple[Any, ...], kwargs: KeywordArguments, output: Any) -> None:
            self._entering.append(layer_input(args, kwargs))
            self._simple &= isinstance(output, Tensor)

        handles = [layer.register_forward_hook(remember, with_kwargs=True) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def without(self, removed: Sequence[int], changes: Changes = MappingProxyType({})) -> Iterator[None]:
        """The watched model, on the same input, as if the layers were removed; `changes` are the weights it will have
        by then other than when it was watched.
        """
        if not self._simple:
            with bypassed(self._layers, removed):
                yield
            return
        changed = [self._first_of(name) for name in changes]
        # What lies outside of the layers may come before them all, and then nothing is known of what enters the first.
        entering = None not in changed
        first = min([*removed, *(index for index in changed if index is not None)], default=0)
        replaced = {*removed, *(range(first + 1) if entering else ())}
        try:
            for index in replaced:
                layer = self._layers[index]
                known = self._entering[first] if entering and index == first else None
                layer.forward = _handing_on(known) if index in removed or index < first else _resuming(layer, known)
            yield
        finally:
            for index in replaced:
                vars(self._layers[index]).pop("forward", None)

    def _first_of(self, name: str) -> int | None:
        """The first layer that has this parameter or buffer; None where it is outside of them."""
        tensor = held(self._model, name)
        having = (
            index
            for index, layer in enumerate(self._layers)
            if any(each is tensor for each in (*layer.parameters(), *layer.buffers()))
        )
        return next(having, None)


def _handing_on(known: Tensor | None) -> Any:
    """A layer that only hands on what it is given, or what is known."""

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return layer_input(args, kwargs) if known is None else known

    return forward


def _resuming(layer: nn.Module, known: Tensor | None) -> Any:
    """The layer itself, on what is known instead of what it is given."""
    own = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return own(known, *args[1:], **kwargs) if args else own(**{**kwargs, "hidden_states": known})

    return forward


@contextmanager
def bypassed(layers: nn.ModuleList, removed: Sequence[int]) -> Iterator[None]:
    """The dense model as if the layers were removed: each hands on what it was given, nothing else is touched.

    This is what a removal must equal, found without any of the renumbering that a removal needs.
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
