"""The one forward and backward pass over the calibration batches that feeds similarity and importance.

Every parameter gradient is measured and freed the moment it is complete, and hidden states live only as long as their
batch, so the peak is the weights plus the activations of one batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sglp_core.analysis.importance import LayerTrace
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.errors import BadCalibration
from sglp_core.structure.layer_stack import layer_input, layer_output
from sglp_core.tasks import Batch, Task, logits_of, loss_of

POSITIONS_PER_BATCH = 256


@singledispatch
def trace(
    model: Any,
    layers: nn.ModuleList,
    batches: Iterable[Batch],
    task: Task,
    similarity: SimilarityAccumulator,
    seed: int = 0,
    on_batch: Any = lambda: None,
    stages: Sequence[tuple[int, int]] = (),
) -> LayerTrace:
    """Measure every batch once; Grams go to `similarity`, everything else comes back.

    `stages` are inclusive (first, last) layer indices, one for the whole stack by default.
    Raises `BadCalibration` where the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    records = []
    stages = stages or ((0, len(layers) - 1),)
    with _only_layers_require_grad(model, layers):
        for batch in batches:
            records.append(_measure(model, layers, batch, task, similarity, generator, stages))
            on_batch()
    if not records:
        raise BadCalibration("there is no calibration batch to measure")
    return LayerTrace(*(np.stack(column) for column in zip(*records, strict=True)))


def counted_positions(batch: Batch, hidden: Tensor) -> Tensor:
    """Which samples of hidden states `[B, T, D]` count, as a mask `[B, T]`: no padding, and not a text's first token.

    The first position of many models carries a massive activation that says nothing of the text. For images every
    image is one sample, and the mask is `[B]`.
    """
    mask = batch.inputs.get("attention_mask")
    if mask is None:
        return torch.ones(hidden.shape[0], dtype=torch.bool)
    counted = mask.bool().cpu().clone()
    counted[:, 0] = False
    return counted


def vectors(hidden: Tensor) -> Tensor:
    """Hidden states `[B, T, D]` as they are, and maps `[B, C, H, W]` as one vector an image."""
    return hidden.flatten(1) if hidden.ndim == 4 else hidden


def draw_positions(counted: Tensor, generator: torch.Generator) -> Tensor:
    """At most 256 of the samples that count, spread over the whole batch, in order."""
    candidates = counted.flatten().nonzero().flatten()
    order = torch.randperm(len(candidates), generator=generator)[:POSITIONS_PER_BATCH]
    return candidates[order.sort().values]


def alikeness(before: Tensor, after: Tensor, counted: Tensor) -> tuple[float, float]:
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


def _across(skip: np.ndarray, stages: Sequence[tuple[int, int]]) -> np.ndarray:
    """Fill in the runs across borders, where no difference of hidden states exists: the sum of their parts."""
    count = len(skip) - 1
    for i in range(count):
        for j in range(i + 1, count + 1):
            parts = [(max(i, first), min(j, last + 1)) for first, last in stages if first < j and i <= last]
            skip[i, j] = sum(skip[begin, end] for begin, end in parts)
    return skip


def _measure(
    model: Any,
    layers: nn.ModuleList,
    batch: Batch,
    task: Task,
    similarity: SimilarityAccumulator,
    generator: torch.Generator,
    stages: Sequence[tuple[int, int]],
) -> tuple[np.ndarray, ...]:
    count = len(layers)
    squared, product, cosine, angle = (np.zeros(count) for _ in range(4))
    skip, turned = (np.zeros((count + 1, count + 1)) for _ in range(2))
    features: list[Tensor] = []
    # The same samples of what enters every layer.
    sampled: list[Tensor] = []
    # What enters every layer and what it hands on; autograd holds the same tensors for the backward pass.
    entering: list[Tensor] = []
    leaving: list[Tensor] = []
    stage_start = {layer: first for first, last in stages for layer in range(first, last + 1)}
    chosen: Tensor | None = None
    counted: Tensor | None = None

    def on_forward(index: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        nonlocal chosen, counted
        before, after = layer_input(args, kwargs), layer_output(output)
        if chosen is None or counted is None:
            counted = counted_positions(batch, after)
            chosen = draw_positions(counted, generator)
        rows = chosen.to(after.device)
        given, flat = (each.detach().reshape(counted.numel(), -1) for each in (before, after))
        sampled.append(given[rows])
        features.append(flat[rows])
        first = stage_start[index]
        turned[first : index + 1, index + 1] = skip_angles(sampled[first:], features[-1])
        cosine[index], angle[index] = alikeness(before, after, counted)
        entering.append(before.detach())
        leaving.append(after.detach())
        after.register_hook(lambda gradient: on_gradient(index, gradient.float()))

    def on_gradient(index: int, gradient: Tensor) -> None:
        first = stage_start[index]
        skip[first : index + 1, index + 1] = skip_losses(entering[first : index + 1], leaving[index], gradient)

    def on_parameter(index: int, parameter: Tensor) -> None:
        gradient = parameter.grad
        assert gradient is not None
        found = gradient_sums(gradient, parameter)
        squared[index] += found[0]
        product[index] += found[1]
        parameter.grad = None

    handles: list[Any] = []
    for index, layer in enumerate(layers):
        handles.append(
            layer.register_forward_hook(
                lambda _m, args, kwargs, output, i=index: on_forward(i, args, kwargs, output), with_kwargs=True
            )
        )
        handles += [
            p.register_post_accumulate_grad_hook(lambda parameter, i=index: on_parameter(i, parameter))
            for p in layer.parameters()
            if p.requires_grad
        ]
    try:
        moved = batch.to(model.device)
        loss = loss_of(logits_of(model, moved), moved.labels, task)
        require_finite(loss)
        similarity.add(features)
        features.clear()
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    return squared, product, _across(skip, stages), _across(turned, stages), cosine, angle


@contextmanager
def _only_layers_require_grad(model: nn.Module, layers: nn.ModuleList) -> Iterator[None]:
    """Embeddings and head are never removed, so their gradients are not computed; everything is put back afterwards."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    layers.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)
            parameter.grad = None
