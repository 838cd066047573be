"""`trace` for a model whose weights are all on the device: plain autograd, with hooks on the layers.

Every parameter gradient is measured and freed as soon as it is complete, and hidden states are freed after their batch,
so the peak memory is the weights plus the activations of one batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sglp_core.analysis.criteria import LayerTrace
from sglp_core.analysis.traced_run import (
    TracedRun,
    cosine_and_angle,
    counted_positions,
    draw_positions,
    gradient_sums,
    require_finite,
    skip_angles,
    skip_losses,
)
from sglp_core.execution.weight_changes import frozen
from sglp_core.structure.layer_calls import KeywordArguments, layer_input, layer_output
from sglp_core.structure.runs import Run, Stage
from sglp_core.tasks import Batch, logits_of, loss_of


def trace_resident(run: TracedRun) -> LayerTrace:
    """Measure every batch once."""
    layers = run.model.layers
    records = []
    with _only_layers_require_grad(run.model.model, layers):
        for batch in run.batches:
            records.append(_BatchTrace(run, layers, batch).measure())
            run.progress.advance()
    return LayerTrace(*(np.stack(column) for column in zip(*records, strict=True)))


def _across(skip: np.ndarray, stages: Sequence[Stage]) -> np.ndarray:
    """Fill in the runs that cross a border of stages: the sum of their parts inside the stages.

    Hidden states of different shapes cannot be compared.
    """
    count = len(skip) - 1
    for i in range(count):
        for j in range(i + 1, count + 1):
            parts = [Run(max(i, s.start), min(j, s.stop)) for s in stages if s.start < j and i < s.stop]
            skip[i, j] = sum(skip[part] for part in parts)
    return skip


class _BatchTrace:
    """The measurements of one forward and backward pass over one batch, collected by hooks on the layers."""

    def __init__(self, run: TracedRun, layers: nn.ModuleList, batch: Batch) -> None:
        count = len(layers)
        self._run, self._layers, self._batch = run, layers, batch
        zeros = partial(torch.zeros, dtype=torch.float64, device=run.model.device)
        # Σ gradient² and Σ |θ · gradient|; cosine and angle.
        self._gradients, self._angles = (zeros(count, 2) for _ in range(2))
        self._skip_loss, self._skip_angle = (zeros(count + 1, count + 1) for _ in range(2))
        # The same samples of the input of every layer, and of its output.
        self._sampled_inputs: list[Tensor] = []
        self._sampled_outputs: list[Tensor] = []
        # Input and output of every layer; autograd holds the same tensors for the backward pass.
        self._inputs: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._stage_start = {layer: stage.start for stage in run.stages for layer in stage.layers}
        self._samples: Tensor | None = None
        self._counted: Tensor | None = None

    def measure(self) -> tuple[np.ndarray, ...]:
        """The fields of a `LayerTrace` for this batch, in their order."""
        handles: list[Any] = []
        for index, layer in enumerate(self._layers):
            handles.append(layer.register_forward_hook(partial(self._on_forward, index), with_kwargs=True))
            handles += [
                parameter.register_post_accumulate_grad_hook(partial(self._on_parameter, index))
                for parameter in layer.parameters()
                if parameter.requires_grad
            ]
        try:
            model, task = self._run.model.model, self._run.model.task
            moved = self._batch.to(model.device)
            loss = loss_of(logits_of(model, moved), moved.labels, task)
            self._run.similarity.add(self._sampled_outputs)
            self._sampled_outputs.clear()
            loss.backward()
        finally:
            for handle in handles:
                handle.remove()
        require_finite(loss.detach())
        gradients, angles, skip_loss, skip_angle = (
            each.cpu().numpy() for each in (self._gradients, self._angles, self._skip_loss, self._skip_angle)
        )
        return (
            gradients[:, 0],
            gradients[:, 1],
            _across(skip_loss, self._run.stages),
            _across(skip_angle, self._run.stages),
            angles[:, 0],
            angles[:, 1],
        )

    def _on_forward(
        self, index: int, _layer: nn.Module, args: tuple[Any, ...], kwargs: KeywordArguments, output: Any
    ) -> None:
        before, after = layer_input(args, kwargs), layer_output(output)
        if self._samples is None or self._counted is None:
            self._counted = counted_positions(self._batch, after)
            self._samples = draw_positions(self._counted, self._run.generator)
        rows = self._samples.to(after.device)
        flat_input, flat_output = (each.detach().reshape(self._counted.numel(), -1) for each in (before, after))
        self._sampled_inputs.append(flat_input[rows])
        self._sampled_outputs.append(flat_output[rows])
        first = self._stage_start[index]
        self._skip_angle[first : index + 1, index + 1] = skip_angles(
            self._sampled_inputs[first:], self._sampled_outputs[-1]
        )
        self._angles[index] = torch.stack(cosine_and_angle(before, after, self._counted))
        self._inputs.append(before.detach())
        self._outputs.append(after.detach())
        after.register_hook(partial(self._on_gradient, index))

    def _on_gradient(self, index: int, gradient: Tensor) -> None:
        first = self._stage_start[index]
        self._skip_loss[first : index + 1, index + 1] = skip_losses(
            self._inputs[first : index + 1], self._outputs[index], gradient.float()
        )

    def _on_parameter(self, index: int, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        self._gradients[index] += gradient_sums(gradient, parameter)
        parameter.grad = None


@contextmanager
def _only_layers_require_grad(model: nn.Module, layers: nn.ModuleList) -> Iterator[None]:
    """Gradients of the layers alone: embeddings and head are never removed. `requires_grad` is restored afterwards."""
    with frozen(model):
        layers.requires_grad_(True)
        try:
            yield
        finally:
            layers.zero_grad(set_to_none=True)
