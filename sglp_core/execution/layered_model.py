"""A model with the path of its layers, its task, and where its weights lie."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sglp_core.errors import OutOfMemory
from sglp_core.execution.intermediates import Intermediates
from sglp_core.execution.layer_call import NotLayerwise
from sglp_core.execution.layerwise import Entered, Layerwise
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.execution.weight_changes import Changes, replaced, tensor_named
from sglp_core.execution.weights import Group, ResidentWeights, Weights
from sglp_core.structure.layer_calls import KeywordArguments, layer_input
from sglp_core.structure.layer_stack import StackPath, example_inputs, layer_names, layers_of
from sglp_core.tasks import Batch, Task, logits_of

# A probe of this many tokens shows whether running layer by layer is the same as running the whole model.
PROBE_ROWS, PROBE_TOKENS = 2, 8
SAME = 1e-3


@dataclass(frozen=True)
class LayeredModel:
    """`model` is a module of transformers or timm; `path` is where its layers are.

    `home` is where its weights lie, None where all are on the device. `scratch` is a folder for what has no room in
    memory.
    """

    model: Any
    path: StackPath
    task: Task
    home: Weights | None = field(default=None, kw_only=True)
    scratch: Path = field(default_factory=lambda: Path(tempfile.gettempdir()), kw_only=True)
    _entered: WeakKeyDictionary[Batch, Entered] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    @property
    def layers(self) -> nn.ModuleList:
        """The modules of the layers, in order."""
        return layers_of(self.model, self.path)

    @cached_property
    def weights(self) -> Weights:
        """Where the weights lie."""
        return self.home or ResidentWeights(self.model)

    @property
    def device(self) -> torch.device:
        """The device that computes."""
        return self.weights.device

    def on_device(self, batch: Batch) -> Batch:
        """The batch on the device, with floating inputs in the type that is computed in."""
        return batch.to(self.device, self.weights.dtype)

    @cached_property
    def layerwise(self) -> Layerwise | None:
        """The model as it is run layer by layer; None where it has to be run whole.

        Raises `OutOfMemory` where it would have to be, and its weights are not in memory.
        """
        try:
            if not isinstance(self.path, str):
                raise NotLayerwise("has its layers in stages")
            layerwise = Layerwise(self.model, self.layers, self.weights)
            self._try(layerwise)
        except NotLayerwise as reason:
            if self.weights.in_memory:
                return None
            raise OutOfMemory(
                f"the model {reason}, so it cannot be run layer by layer and has to fit in memory"
            ) from reason
        return layerwise

    @cached_property
    def intermediates(self) -> Intermediates:
        """Where hidden states between layers are kept."""
        return Intermediates(
            self.device, self.scratch, in_files=not self.weights.in_memory, on_device=self.weights.resident
        )

    def entered(self, batches: Sequence[Batch]) -> list[Entered]:
        """The batches as they enter the first layer, for a model that runs layer by layer.

        Each is computed once, so that the embeddings are not needed again; it goes when its batch is freed.
        """
        missing = [batch for batch in batches if batch not in self._entered]
        if missing and self.layerwise is not None:
            with self.layerwise.outside():
                for batch in missing:
                    entered = self.layerwise.enter(batch)
                    self._entered[batch] = replace(entered, hidden=self.intermediates.keep(entered.hidden))
        return [self._entered[batch] for batch in batches]

    @contextmanager
    def whole(self, variant: Variant = Variant()) -> Iterator[Any]:
        """A variant of the model, to be called as a whole inside the `with` statement; its weights come when needed.

        Gradients flow to the changes of the variant. Go backwards inside the statement too: only there are layers
        brought to the device once more.
        """
        with ExitStack() as stack:
            stack.enter_context(bypassed(self.layers, variant.removed))
            if self.weights.resident:
                stack.enter_context(replaced(self.model, self.model, variant.changes))
            else:
                stack.enter_context(self._whole_onloaded(variant))
            yield self.model

    def stored(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers by name, in the types in which they are stored; not to be changed.

        Each is on the device, and can be freed before the next is read.
        """
        weights = self.weights.as_stored()
        for group, own in itertools.groupby(names, self._group_of):
            with weights.onloaded(group):
                for name in own:
                    yield name, tensor_named(self.model, name).detach()

    @contextmanager
    def _whole_onloaded(self, variant: Variant) -> Iterator[None]:
        changes: dict[Group, dict[str, Tensor]] = {}
        for name, value in variant.changes.items():
            changes.setdefault(self._group_of(name), {})[name] = value
        with ExitStack() as stack:
            stack.enter_context(self.weights.onloaded(None))
            stack.enter_context(replaced(self.model, self.model, changes.get(None, {})))
            run = list(range(len(self.layers)))
            if variant.removed and self.layerwise is not None:
                run = [index for index in run if index not in variant.removed]
                for index in set(variant.removed):
                    stack.enter_context(_not_computed(self.layers[index], self.layerwise))
            # There is nothing to bring before the first and after the last: what is outside of the layers is there.
            neighbours: list[Group] = [None, *run, None]
            for number, index in enumerate(run):
                before, after = neighbours[number], neighbours[number + 2]
                stack.enter_context(self._onloading(index, changes.get(index, {}), before, after))
            yield

    def _group_of(self, name: str) -> Group:
        """The layer that a parameter or buffer belongs to."""
        names = layer_names(self.model, self.path)
        return next((index for index, layer in enumerate(names) if name.startswith(f"{layer}.")), None)

    @contextmanager
    def _onloading(self, index: int, changes: Changes, before: Group, after: Group) -> Iterator[None]:
        """Bring a layer's weights to the device before each of its calls, and free them after it.

        Nothing of a call is kept for the backward pass but its input; the layer is called again there. `before` and
        `after` are the layers that run before and after it.
        """
        layer, weights = self.layers[index], self.weights
        own_forward = layer.forward

        def run(following: Group, args: tuple[Any, ...], kwargs: KeywordArguments) -> Any:
            with weights.onloaded(index), replaced(self.model, layer, changes):
                weights.prefetch(following)
                return own_forward(*args, **kwargs)

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return run(after, args, kwargs)
            calls = itertools.count()

            def again(*args: Any, **kwargs: Any) -> Any:
                if next(calls) == 0:
                    return run(after, args, kwargs)
                # On the way back, which ends where no layer before this one has anything to train.
                return run(before if layer_input(args, kwargs).requires_grad else None, args, kwargs)

            return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

        layer.forward = forward
        try:
            yield
        finally:
            del layer.forward

    def _try(self, layerwise: Layerwise) -> None:
        """Raise `NotLayerwise` where a probe shows that running layer by layer is not the same."""
        batch = self._probe()
        with layerwise.outside(), torch.no_grad():
            entered = layerwise.enter(batch)
            if not self.weights.in_memory:
                return
            hidden = entered.hidden
            for index, call in enumerate(entered.calls):
                with layerwise.layer(index) as layer:
                    hidden = call.run(layer, hidden)
            logits = layerwise.exit(entered.batch, hidden)
            with self.whole() as model:
                expected = logits_of(model, entered.batch)
        scale = expected.float().abs().max().clamp_min(1e-30)
        # A model with infinite weights gives NaN in both ways.
        same_nan = torch.equal(logits.isnan(), expected.isnan())
        if not same_nan or float((logits.float() - expected.float()).abs().max() / scale) > SAME:
            raise NotLayerwise("gives other logits when its layers run one by one")

    def _probe(self) -> Batch:
        generator = torch.Generator().manual_seed(0)
        inputs = {}
        for name, example in example_inputs(self.model, PROBE_TOKENS).items():
            shape = (PROBE_ROWS, *example.shape[1:])
            if example.is_floating_point():
                inputs[name] = torch.randn(shape, generator=generator)
            else:
                vocabulary = self.model.config.get_text_config().vocab_size
                inputs[name] = torch.randint(vocabulary, shape, generator=generator)
        return Batch(inputs, torch.zeros(PROBE_ROWS, dtype=torch.long))


@contextmanager
def _not_computed(layer: nn.Module, layerwise: Layerwise) -> Iterator[None]:
    """A removed layer, which returns its input, needs no weights."""
    layer.forward = lambda *args, **kwargs: layerwise.as_returned(layer_input(args, kwargs))
    try:
        yield
    finally:
        del layer.forward
