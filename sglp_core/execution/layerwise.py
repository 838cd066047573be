"""Run a model in three parts: entry (what comes before its layers), its layers one by one, and exit (what follows).

The field calls this the sequential pipeline. What a layer is called with is recorded in one pass of the model in which
the layers do not compute, so there is no code for single model families here.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sglp_core.execution.available_memory import free_bytes
from sglp_core.execution.layer_call import LayerCall, NotLayerwise, plain_leaves, sample_dimensions
from sglp_core.execution.weights import Weights
from sglp_core.structure.layer_calls import KeywordArguments, layer_input
from sglp_core.tasks import Batch, logits_of

# Copies of logits and of their gradients, in float32, that exist at a time; and how much memory they may take at most.
COPIES_OF_LOGITS = 12
MOST_FOR_LOGITS = 2**29


@dataclass(frozen=True)
class Entered:
    """One batch as it enters the first layer: hidden states `[B, T, D]`, and the call of every layer."""

    batch: Batch
    hidden: Tensor
    calls: tuple[LayerCall, ...]


class Layerwise:
    """A model that is run layer by layer. The methods raise `NotLayerwise` where that is not possible."""

    def __init__(self, model: Any, layers: nn.ModuleList, weights: Weights) -> None:
        self._model, self.layers, self.weights = model, layers, weights
        # What a layer returns after the hidden states, with NaN in its tensors; None where it returns a tensor alone.
        # It is known once a layer has run.
        self._other_outputs: tuple[Any, ...] | None = None
        self._output_known = False
        self._visits: dict[Callable[[int], object], int] = {}

    @contextmanager
    def layer(self, index: int, following: int | None = None) -> Iterator[nn.Module]:
        """One layer, with its weights on the device inside the `with` statement.

        The layer that is `following` (by default the next one) is on its way meanwhile.
        """
        with self.weights.onloaded(index):
            self.weights.prefetch(index + 1 if following is None else following)
            for visit in [visit for visit, upcoming in self._visits.items() if upcoming == index]:
                self._visits[visit] = index + 1
                visit(index)
                if index == len(self.layers) - 1:
                    del self._visits[visit]
            yield self.layers[index]

    def visit_layers(self, visit: Callable[[int], object]) -> None:
        """Call a function with the index of every layer, in order, each when its weights are next on the device."""
        self._visits[visit] = 0

    def end_visits(self) -> None:
        """Visit no further layers, where the walk that came to some of them was given up."""
        self._visits.clear()

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Everything outside of the layers has its weights on the device inside the `with` statement."""
        with self.weights.onloaded(None):
            yield

    @torch.no_grad()
    def enter(self, batch: Batch) -> Entered:
        """The hidden states and layer arguments of a batch where it enters the first layer; call inside `outside()`."""
        batch = batch.to(self.weights.device, self.weights.dtype)
        hidden, calls = self._entered(batch)
        _, with_one_more = self._entered(_with_one_more(batch))
        leaves = [plain_leaves(call.rest, call.kwargs) for call in calls]
        found = [
            LayerCall(
                call.rest,
                call.kwargs,
                call.named,
                sample_dimensions(own, plain_leaves(larger.rest, larger.kwargs), len(batch.labels)),
            )
            for call, own, larger in zip(calls, leaves, with_one_more, strict=True)
        ]
        return Entered(batch, hidden, tuple(found))

    def exit(self, batch: Batch, hidden: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits from the output `[B, T, D]` of the last layer; call inside `outside()`.

        `positions` are the only ones that logits are needed of; they may come with the others where the model's class
        has no way to leave them out. Returns `[B, T, V]`, `[B, len(positions), V]`, or `[B, classes]`.
        """
        last = len(self.layers) - 1
        batch = batch.to(self.weights.device, self.weights.dtype)

        def pass_on(index: int, args: tuple[Any, ...], kwargs: KeywordArguments) -> Any:
            return self.as_returned(hidden if index == last else layer_input(args, kwargs))

        with self._replaced_layers(pass_on):
            if positions is None:
                return logits_of(self._model, batch)
            if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
                return logits_of(self._model, batch, positions=positions)
            return logits_of(self._model, batch)[:, positions]

    @property
    def classes(self) -> int:
        """The size of the vocabulary, or the number of labels."""
        config = self._model.config
        return int(getattr(config.get_text_config(), "vocab_size", 0) or getattr(config, "num_labels", 1))

    def positions_at_once(self, samples: int) -> int:
        """Of how many positions of so many samples there is room for logits beside the weights of the head."""
        room = min(MOST_FOR_LOGITS, free_bytes(self.weights.device))
        return max(1, room // (COPIES_OF_LOGITS * 4 * self.classes * samples))

    def as_returned(self, hidden: Tensor) -> Any:
        """The hidden states as this family's layers return them: alone, or first in a tuple."""
        return hidden if self._other_outputs is None else (hidden, *self._other_outputs)

    def _entered(self, batch: Batch) -> tuple[Tensor, list[LayerCall]]:
        calls: list[LayerCall] = []
        entered: list[Tensor] = []

        def record(index: int, args: tuple[Any, ...], kwargs: KeywordArguments) -> Any:
            hidden = layer_input(args, kwargs)
            if entered and not (hidden is entered[0] or torch.equal(hidden, entered[0])):
                raise NotLayerwise(f"changes the hidden states between the layers {index - 1} and {index}")
            if index != len(calls):
                raise NotLayerwise("does not run its layers once each and in order")
            entered.append(hidden)
            others = {name: value for name, value in kwargs.items() if value is not hidden}
            if any(isinstance(value, Tensor) for value in self._other_outputs or ()) and _has_nan((args[1:], others)):
                raise NotLayerwise("passes on what its layers return beside their hidden states")
            calls.append(LayerCall(args[1:], others, named=not args, samples=None))
            if not self._output_known:
                self._run_first_layer(calls[0], hidden)
            if index == len(self.layers) - 1:
                raise _EndOfStack
            return self.as_returned(hidden)

        with self._replaced_layers(record):
            try:
                logits_of(self._model, batch)
            except _EndOfStack:
                return entered[0], calls
        raise NotLayerwise("does not run all of its layers")

    def _run_first_layer(self, call: LayerCall, hidden: Tensor) -> None:
        """Run the first layer once to learn whether layers return a tensor or a tuple."""
        plain_leaves(call.rest, call.kwargs)
        with self.weights.onloaded(0):
            layer = self.layers[0]
            forward = vars(layer).pop("forward")
            try:
                named = {"hidden_states": hidden} if call.named else {}
                output = layer(*(() if call.named else (hidden, *call.rest)), **named, **call.kwargs)
            finally:
                layer.forward = forward
        if isinstance(output, tuple):
            self._other_outputs = tuple(_not_a_number(value) for value in output[1:])
        self._output_known = True

    @contextmanager
    def _replaced_layers(self, forward: Callable[[int, tuple[Any, ...], KeywordArguments], Any]) -> Iterator[None]:
        """Replace the computation of every layer; models still read other attributes of the modules."""
        for index, layer in enumerate(self.layers):
            layer.forward = lambda *args, i=index, **kwargs: forward(i, args, kwargs)
        try:
            yield
        finally:
            for layer in self.layers:
                del layer.forward


def _not_a_number(value: Any) -> Any:
    """NaN of the same shape for a tensor such as the attention weights, so that whatever is made of it is seen."""
    if not isinstance(value, Tensor):
        return value
    if not value.is_floating_point():
        raise NotLayerwise("has layers that return integers beside their hidden states")
    return value.new_full((), torch.nan).expand(value.shape)


def _has_nan(arguments: Any) -> bool:
    leaves = pytree.tree_leaves(arguments)
    return any(isinstance(leaf, Tensor) and bool(leaf.isnan().any()) for leaf in leaves)


class _EndOfStack(Exception):
    """Ends a forward pass after the last layer has been called."""


def _with_one_more(batch: Batch) -> Batch:
    """The batch with its last sample twice, which pads no other sample further."""
    return Batch(
        {name: torch.cat([tensor, tensor[-1:]]) for name, tensor in batch.inputs.items()},
        torch.cat([batch.labels, batch.labels[-1:]]),
    )
