"""One forward and backward pass over the calibration batches, from which similarity and importance are computed.

Every parameter gradient is measured and freed as soon as it is complete, and hidden states are freed after their batch,
so the peak memory is the weights plus the activations of one batch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sglp_core.analysis.criteria import LayerTrace
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.errors import BadCalibration
from sglp_core.progress import Phase, silent_phase
from sglp_core.structure.layer_calls import KeywordArguments, layer_input, layer_output
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.structure.runs import Run, Stage
from sglp_core.tasks import Batch, logits_of, loss_of

POSITIONS_PER_BATCH = 256


def trace(
    model: LayeredModel,
    batches: Sequence[Batch],
    similarity: SimilarityAccumulator,
    seed: int = 0,
    stages: Sequence[Stage] = (),
    progress: Phase | None = None,
) -> LayerTrace:
    """Measure every batch once; adds the outputs of the layers to `similarity` and returns the other measurements.

    There is one stage for the whole stack by default. Raises `BadCalibration` where the loss is not finite.
    """
    if not batches:
        raise BadCalibration("there is no calibration batch to measure")
    progress = progress or silent_phase()
    progress.start(len(batches), "batches")
    generator = torch.Generator().manual_seed(seed)
    whole = (Stage(0, len(model.layers)),)
    run = TracedRun(model, batches, similarity, generator, stages or whole, progress)
    return trace_run(model.model, run)


@dataclass(frozen=True)
class TracedRun:
    """The arguments of `trace`, complete."""

    model: LayeredModel
    batches: Sequence[Batch]
    similarity: SimilarityAccumulator
    generator: torch.Generator
    stages: Sequence[Stage]
    progress: Phase


@singledispatch
def trace_run(model: Any, run: TracedRun) -> LayerTrace:
    """`trace` for one type of model."""
    layers = run.model.layers
    records = []
    with _only_layers_require_grad(model, layers):
        for batch in run.batches:
            records.append(_BatchTrace(run, layers, batch).measure())
            run.progress.advance()
    return LayerTrace(*(np.stack(column) for column in zip(*records, strict=True)))


def counted_positions(batch: Batch, hidden: Tensor) -> Tensor:
    """Which samples of hidden states `[B, T, D]` count, as a mask `[B, T]`: no padding, and not a text's first token.

    In many models the first position has a massive activation that does not depend on the text. An image is one sample,
    and the mask of images is `[B]`.
    """
    mask = batch.inputs.get("attention_mask")
    if mask is None:
        return torch.ones(hidden.shape[0], dtype=torch.bool)
    counted = mask.bool().cpu().clone()
    counted[:, 0] = False
    return counted


def vectors(hidden: Tensor) -> Tensor:
    """Hidden states `[B, T, D]` unchanged; feature maps `[B, C, H, W]` flattened to one vector an image."""
    return hidden.flatten(1) if hidden.ndim == 4 else hidden


def draw_positions(counted: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of at most 256 samples that count, drawn from the whole batch, rising."""
    candidates = counted.flatten().nonzero().flatten()
    order = torch.randperm(len(candidates), generator=generator)[:POSITIONS_PER_BATCH]
    return candidates[order.sort().values]


def cosine_and_angle(before: Tensor, after: Tensor, counted: Tensor) -> tuple[float, float]:
    """Cosine of a layer's input and output, and their angle over π, each the mean over the samples that count."""
    similar = nn.functional.cosine_similarity(vectors(before.detach()).float(), vectors(after.detach()).float(), dim=-1)
    similar = similar[counted.to(similar.device)].clamp(-1, 1)
    return similar.mean().item(), (similar.arccos() / torch.pi).mean().item()


def skip_angles(starts: Sequence[Tensor], end: Tensor) -> Tensor:
    """The angle over π between `end` and each start, all `[samples, D]`, mean over samples; float64 on the CPU."""
    similar = nn.functional.cosine_similarity(torch.stack(list(starts)).float(), end.float(), dim=-1)
    return (similar.clamp(-1, 1).arccos() / torch.pi).mean(1).double().cpu()


def skip_losses(starts: Sequence[Tensor], end: Tensor, gradient: Tensor) -> Tensor:
    """Σ over tokens (or images) of |⟨∂L/∂h_end, h_end − h_start⟩| for each start, float64 on the CPU."""
    gradient = vectors(gradient)
    change = [torch.linalg.vecdot(gradient, vectors((end - start).float())).abs().sum() for start in starts]
    return torch.stack(change).double().cpu()


def gradient_sums(gradient: Tensor, parameter: Tensor) -> tuple[float, float]:
    """Σ gradient² and Σ |θ · gradient| of one parameter."""
    squared = gradient.float().square().sum().item()
    product = torch.linalg.vecdot(gradient.flatten().float().abs(), parameter.detach().flatten().float().abs())
    return squared, product.item()


def require_finite(loss: Tensor) -> None:
    """Raise `BadCalibration` where the loss is not finite."""
    if not torch.isfinite(loss):
        raise BadCalibration("the model's loss on the calibration data is not finite; check its weights and the data")


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
        self.squared_gradient, self.weight_gradient, self.cosine, self.angle = (np.zeros(count) for _ in range(4))
        self.skip_loss, self.skip_angle = (np.zeros((count + 1, count + 1)) for _ in range(2))
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
            require_finite(loss)
            self._run.similarity.add(self._sampled_outputs)
            self._sampled_outputs.clear()
            loss.backward()
        finally:
            for handle in handles:
                handle.remove()
        return (
            self.squared_gradient,
            self.weight_gradient,
            _across(self.skip_loss, self._run.stages),
            _across(self.skip_angle, self._run.stages),
            self.cosine,
            self.angle,
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
        self.skip_angle[first : index + 1, index + 1] = skip_angles(
            self._sampled_inputs[first:], self._sampled_outputs[-1]
        )
        self.cosine[index], self.angle[index] = cosine_and_angle(before, after, self._counted)
        self._inputs.append(before.detach())
        self._outputs.append(after.detach())
        after.register_hook(partial(self._on_gradient, index))

    def _on_gradient(self, index: int, gradient: Tensor) -> None:
        first = self._stage_start[index]
        self.skip_loss[first : index + 1, index + 1] = skip_losses(
            self._inputs[first : index + 1], self._outputs[index], gradient.float()
        )

    def _on_parameter(self, index: int, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        squared, product = gradient_sums(gradient, parameter)
        self.squared_gradient[index] += squared
        self.weight_gradient[index] += product
        parameter.grad = None


@contextmanager
def _only_layers_require_grad(model: nn.Module, layers: nn.ModuleList) -> Iterator[None]:
    """Gradients of the layers alone: embeddings and head are never removed. `requires_grad` is restored afterwards."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    layers.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)
            parameter.grad = None
