"""`trace` for a model whose weights stay on disk, layer by layer.

In the forward pass every batch passes through a layer while that layer is loaded, and its outputs are kept on disk. In
the backward pass each layer is loaded again and recomputed from its inputs, now with gradients. So memory holds the
weights and gradients of one layer, and its activations for one batch; hidden states and their gradients are on disk.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sglp_core.analysis.criteria import LayerTrace
from sglp_core.analysis.tracing import (
    TracedRun,
    cosine_and_angle,
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

    # hidden[b][i] is the input of layer i; the last is the output of the stack.
    hidden = [[stack_input.hidden] for stack_input in inputs]
    for index in range(len(layers)):
        with model.layer(index) as layer, torch.no_grad():
            for b, stack_input in enumerate(inputs):
                hidden[b].append(model.keep(stack_input.calls[index].run(layer, hidden[b][index])))
                cosine[b, index], angle[b, index] = cosine_and_angle(hidden[b][index], hidden[b][-1], counted[b])
    for b, (states, mask) in enumerate(zip(hidden, counted, strict=True)):
        chosen = draw_positions(mask, run.generator)
        sampled = [state.reshape(mask.numel(), -1)[chosen] for state in states]
        for end in range(1, len(sampled)):
            turned[b, :end, end] = skip_angles(sampled[:end], sampled[end])
        run.similarity.add(sampled[1:])

    # gradients[b][i] is of hidden[b][i]; that of the input of the stack is not needed.
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
    """∂L/∂h of the output of the stack, for each batch, by the index of these hidden states."""
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
    """∂L/∂h of the input of a layer, and Σ gradient² and Σ |θ · gradient| of its parameters."""
    leaf = before.detach().requires_grad_()
    parameters = list(layer.parameters())
    after = call.run(layer, leaf)
    of_input, *of_parameters = torch.autograd.grad(after, [leaf, *parameters], gradient, allow_unused=True)
    sums = [gradient_sums(g, p) for g, p in zip(of_parameters, parameters, strict=True) if g is not None]
    squared, product = (sum(column) for column in zip(*sums, strict=True))
    return of_input, (squared, product)


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
