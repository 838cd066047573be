"""What `tracing.trace` measures, layer by layer, for a model whose weights stay on disk.

Forwards every batch passes through a layer while that layer is loaded, and what it hands on is kept. Backwards each
layer is loaded once more and computed again from what it was given, now for the gradients. So there is one layer's
weights, one layer's gradients and one batch's activations of one layer in memory at a time; hidden states and their
gradients lie on disk.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sglp_core.analysis.criteria import LayerTrace
from sglp_core.analysis.tracing import (
    TracedRun,
    alikeness,
    counted_positions,
    draw_positions,
    gradient_sums,
    require_finite,
    skip_angles,
    skip_losses,
    trace_run,
)
from sglp_core.checkpoints.limits import require_space
from sglp_core.loading.streamed_model import LayerCall, StackInput, StreamedModel
from sglp_core.tasks import Batch, Task, loss_of


@trace_run.register
def trace_streamed_run(model: StreamedModel, run: TracedRun) -> LayerTrace:
    """Measure every batch once, as `trace` does; a batch counts as done after its last step.

    Only a model with one stack is streamed, so there is one stage.
    """
    batches, layers = run.batches, run.model.layers
    shape = (len(batches), len(layers))
    squared, product, cosine, angle = (np.zeros(shape) for _ in range(4))
    skip, turned = (np.zeros((shape[0], shape[1] + 1, shape[1] + 1)) for _ in range(2))
    inputs = model.stack_inputs(batches)
    _require_space(model, inputs)
    counted = [counted_positions(batch, stack_input.hidden) for batch, stack_input in zip(batches, inputs, strict=True)]

    # hidden[b][i] enters layer i; the last is what leaves the stack.
    hidden = [[stack_input.hidden] for stack_input in inputs]
    for index in range(len(layers)):
        with model.layer(index) as layer, torch.no_grad():
            for b, stack_input in enumerate(inputs):
                hidden[b].append(model.keep(stack_input.calls[index].run(layer, hidden[b][index])))
                cosine[b, index], angle[b, index] = alikeness(hidden[b][index], hidden[b][-1], counted[b])
    for b, (states, mask) in enumerate(zip(hidden, counted, strict=True)):
        chosen = draw_positions(mask, run.generator)
        sampled = [state.reshape(mask.numel(), -1)[chosen] for state in states]
        for end in range(1, len(sampled)):
            turned[b, :end, end] = skip_angles(sampled[:end], sampled[end])
        run.similarity.add(sampled[1:])

    # gradients[b][i] is of hidden[b][i]; that of the stack's entrance is not wanted.
    gradients = _gradients_at_the_exit(model, batches, [states[-1] for states in hidden], run.model.task)
    for index in reversed(range(len(layers))):
        with model.layer(index) as layer:
            layer.requires_grad_(True)
            for b, stack_input in enumerate(inputs):
                gradient, sums = _differentiate(
                    layer, stack_input.calls[index], hidden[b][index], gradients[b][index + 1]
                )
                squared[b, index], product[b, index] = sums
                if index > 0:
                    gradients[b][index] = model.keep(gradient)
    for b in range(len(batches)):
        skip[b] = _skip_losses_of_runs(hidden[b], gradients[b])
        run.progress.advance()
    return LayerTrace(squared, product, skip, turned, cosine, angle)


def _gradients_at_the_exit(
    model: StreamedModel, batches: Sequence[Batch], hidden: Sequence[Tensor], task: Task
) -> list[dict[int, Tensor]]:
    """∂L/∂h of what leaves the stack, each batch's by the number of its hidden states."""
    gradients = []
    last = len(model.layers)
    with model.outside():
        for batch, state in zip(batches, hidden, strict=True):
            leaf = state.detach().requires_grad_()
            loss = loss_of(model.logits(batch, leaf), batch.labels, task)
            require_finite(loss)
            gradients.append({last: model.keep(torch.autograd.grad(loss, leaf)[0])})
    return gradients


def _differentiate(
    layer: nn.Module, call: LayerCall, before: Tensor, gradient: Tensor
) -> tuple[Tensor, tuple[float, float]]:
    """∂L/∂h of what enters a layer, and its parameters' Σ gradient² and Σ |θ · gradient|."""
    leaf = before.detach().requires_grad_()
    parameters = list(layer.parameters())
    after = call.run(layer, leaf)
    found = torch.autograd.grad(after, [leaf, *parameters], gradient, allow_unused=True)
    sums = [gradient_sums(g, p) for g, p in zip(found[1:], parameters, strict=True) if g is not None]
    squared, product = (sum(column) for column in zip(*sums, strict=True))
    return found[0], (squared, product)


def _skip_losses_of_runs(hidden: Sequence[Tensor], gradients: Mapping[int, Tensor]) -> np.ndarray:
    """One batch's `skip_loss`, window by window, so that everything on disk is read only once."""
    count = len(hidden)
    losses = torch.zeros(count, count, dtype=torch.float64)
    for row in range(len(hidden[0])):
        states = [state[row].clone() for state in hidden]
        for end in range(1, count):
            losses[:end, end] += skip_losses(states[:end], states[end], gradients[end][row].float())
    result: np.ndarray = losses.numpy()
    return result


def _require_space(model: StreamedModel, inputs: Sequence[StackInput]) -> None:
    states = sum(stack_input.hidden.numel() * stack_input.hidden.element_size() for stack_input in inputs)
    require_space(model.scratch, states * (2 * len(model.layers) + 2), "the hidden states of the calibration data")
