"""The dense model without some layers, computing only what differs from it.

A removed layer is not run at all, and neither are the layers before the first removed one: what they hand on was seen
when the dense model ran. The result is that of `surgery.bypassed`, number for number.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sglp_core.layers import layer_input
from sglp_core.surgery import TAILS, bypassed


class Skipper:
    """What entered each layer in the last dense run; one for every model that is compared with its own parts.

    Models whose layers hand on more than hidden states, or take keys and values from an earlier layer, are bypassed by
    running every layer, as `surgery.bypassed` does.
    """

    def __init__(self, model: Any, layers: nn.ModuleList) -> None:
        self._layers = layers
        self._entering: list[Tensor] = []
        text = model.config.get_text_config()
        self._simple = not any(getattr(text, name, None) for name in TAILS)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Remember what enters every layer while the dense model runs."""
        self._entering.clear()

        def remember(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self._entering.append(layer_input(args, kwargs))
            self._simple &= isinstance(output, Tensor)

        handles = [layer.register_forward_hook(remember, with_kwargs=True) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def without(self, removed: Sequence[int], resume: bool = True) -> Iterator[None]:
        """The watched model, on the same input, as if the layers were removed.

        With `resume` the layers before the first removed one are not run again; their weights must be the same still.
        """
        if not removed or not self._simple:
            with bypassed(self._layers, removed):
                yield
            return
        first = min(removed)
        skipped = {*removed, *(range(first) if resume else ())}
        try:
            for index in skipped:
                known = self._entering[first] if resume and index == first else None
                self._layers[index].forward = _stand_in(known)
            yield
        finally:
            for index in skipped:
                vars(self._layers[index]).pop("forward", None)


def _stand_in(known: Tensor | None) -> Any:
    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return layer_input(args, kwargs) if known is None else known

    return forward
