"""A model with the path of its layers, its task, and where its weights lie."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sglp_core.errors import OutOfMemory
from sglp_core.execution.intermediates import Intermediates
from sglp_core.execution.layer_call import NotLayerwise
from sglp_core.execution.layerwise import Layerwise
from sglp_core.execution.weights import ResidentWeights, Weights
from sglp_core.structure.layer_stack import StackPath, example_inputs, layers_of
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
        moved = batch.to(self.device)
        dtype = self.weights.dtype
        typed = {n: t.to(dtype) if t.is_floating_point() else t for n, t in moved.inputs.items()}
        return Batch(typed, moved.labels)

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
        return Intermediates(self.device, self.scratch, in_files=not self.weights.in_memory)

    @contextmanager
    def whole(self) -> Iterator[Any]:
        """The model, to be called as a whole inside the `with` statement; its weights come when they are needed."""
        with ExitStack() as stack:
            if not self.weights.resident:
                stack.enter_context(self.weights.onloaded(None))
                for index, layer in enumerate(self.layers):
                    stack.enter_context(_onloading(self.weights, index, layer))
            yield self.model

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
        if float((logits.float() - expected.float()).abs().max() / scale) > SAME:
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
def _onloading(weights: Weights, index: int, layer: nn.Module) -> Iterator[None]:
    """Bring a layer's weights to the device before each of its calls, and free them after it."""
    own = layer.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with weights.onloaded(index):
            weights.prefetch(index + 1)
            return own(*args, **kwargs)

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward
