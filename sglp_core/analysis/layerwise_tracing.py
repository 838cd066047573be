"""`trace` for a model whose weights come to the device layer by layer.

In the forward pass every batch passes through a layer while that layer is on the device, and its outputs are kept. In
the backward pass each layer comes again and is recomputed from its inputs, now with gradients. So the device holds the
weights and gradients of one layer, and its activations for one batch.
"""

from collections.abc import Mapping, Sequence

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
from sglp_core.checkpoints.limits import require_space
from sglp_core.execution.layer_call import LayerCall
from sglp_core.execution.layerwise import Entered, Layerwise
from sglp_core.tasks import IGNORED, loss_of

# Hidden states of one batch by the index of the layer that they enter; the last is the output of the stack.
States = list[Tensor]


def trace_layerwise(run: TracedRun, layerwise: Layerwise) -> LayerTrace:
    """Measure every batch once. A model that runs layer by layer has one stage."""
    device, keep, count = run.model.device, run.model.intermediates.keep, len(layerwise.layers)
    gradient, angle = (torch.zeros(len(run.batches), count, 2, dtype=torch.float64, device=device) for _ in range(2))
    skip, turned = (torch.zeros(len(run.batches), count + 1, count + 1, dtype=torch.float64) for _ in range(2))
    entered = run.model.entered(run.batches)
    _require_space(run, entered)
    counted = [counted_positions(batch, each.hidden) for batch, each in zip(run.batches, entered, strict=True)]

    hidden: list[States] = [[each.hidden] for each in entered]
    for index in range(count):
        with layerwise.layer(index) as layer, torch.no_grad():
            for b, each in enumerate(entered):
                before = hidden[b][index].to(device)
                after = each.calls[index].run(layer, before)
                angle[b, index] = torch.stack(cosine_and_angle(before, after, counted[b]))
                hidden[b].append(keep(after))
        run.progress.advance()
    for b, (states, mask) in enumerate(zip(hidden, counted, strict=True)):
        chosen = draw_positions(mask, run.generator)
        sampled = [state.reshape(mask.numel(), -1)[chosen.to(state.device)].to(device) for state in states]
        for end in range(1, len(sampled)):
            turned[b, :end, end] = skip_angles(sampled[:end], sampled[end]).cpu()
        run.similarity.add(sampled[1:])

    gradients = _gradients_at_the_exit(run, layerwise, entered, [states[-1] for states in hidden])
    for index in reversed(range(count)):
        with layerwise.layer(index, following=index - 1) as layer:
            layer.requires_grad_(True)
            for b, each in enumerate(entered):
                of_input, gradient[b, index] = _differentiate(
                    layer, each.calls[index], hidden[b][index].to(device), gradients[b][index + 1].to(device)
                )
                # That of the input of the stack is not needed.
                if index > 0:
                    gradients[b][index] = keep(of_input)
            layer.requires_grad_(False)
        run.progress.advance()
    for b in range(len(run.batches)):
        skip[b] = _skip_losses_of_runs(hidden[b], gradients[b], device)
        run.progress.advance()
    squared, product = gradient.cpu().unbind(-1)
    cosine, turn = angle.cpu().unbind(-1)
    return LayerTrace(*(each.numpy() for each in (squared, product, skip, turned, cosine, turn)))


def _gradients_at_the_exit(
    run: TracedRun, layerwise: Layerwise, entered: Sequence[Entered], hidden: Sequence[Tensor]
) -> list[dict[int, Tensor]]:
    """∂L/∂h of the output of the stack, for each batch, by the index of these hidden states."""
    gradients = []
    with layerwise.outside():
        for each, state in zip(entered, hidden, strict=True):
            gradient = _gradient_at_the_exit(run, layerwise, each, state.detach().to(run.model.device))
            gradients.append({len(layerwise.layers): run.model.intermediates.keep(gradient)})
    return gradients


def _gradient_at_the_exit(run: TracedRun, layerwise: Layerwise, entered: Entered, hidden: Tensor) -> Tensor:
    """∂L/∂h of one batch. Of a causal language model, logits exist of a few positions at a time."""
    labels, task = entered.batch.labels, run.model.task
    leaf = hidden.requires_grad_()
    if task != "causal_lm":
        loss = loss_of(layerwise.exit(entered.batch, leaf), labels, task)
        require_finite(loss.detach())
        return torch.autograd.grad(loss, leaf)[0]
    predicting = torch.arange(labels.shape[1] - 1, device=labels.device)
    counted = (labels[:, 1:] != IGNORED).sum()
    total = torch.zeros((), dtype=torch.float64, device=hidden.device)
    for positions in predicting.split(layerwise.positions_at_once(len(labels))):
        logits = layerwise.exit(entered.batch, leaf, positions)
        nats = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), labels[:, positions + 1].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        (nats / counted).backward()
        total += nats.detach()
    require_finite(total / counted)
    assert leaf.grad is not None
    return leaf.grad


def _differentiate(layer: nn.Module, call: LayerCall, before: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """∂L/∂h of the input of a layer, and Σ gradient² and Σ |θ · gradient| of its parameters, `[2]`."""
    leaf = before.detach().requires_grad_()
    sums = torch.zeros(2, dtype=torch.float64, device=leaf.device)

    def add_up(parameter: Tensor) -> None:
        # So that never more than one parameter has a gradient.
        assert parameter.grad is not None
        sums.add_(gradient_sums(parameter.grad, parameter))
        parameter.grad = None

    handles = [parameter.register_post_accumulate_grad_hook(add_up) for parameter in layer.parameters()]
    try:
        torch.autograd.backward(call.run(layer, leaf), gradient)
    finally:
        for handle in handles:
            handle.remove()
    assert leaf.grad is not None
    return leaf.grad, sums


def _skip_losses_of_runs(hidden: States, gradients: Mapping[int, Tensor], device: torch.device) -> Tensor:
    """One batch's `skip_loss`, sample by sample, so that everything that is not in memory is read only once."""
    count = len(hidden)
    losses = torch.zeros(count, count, dtype=torch.float64, device=device)
    for row in range(len(hidden[0])):
        states = [state[row].to(device, copy=True) for state in hidden]
        for end in range(1, count):
            losses[:end, end] += skip_losses(states[:end], states[end], gradients[end][row].to(device).float())
    return losses.cpu()


def _require_space(run: TracedRun, entered: Sequence[Entered]) -> None:
    states = sum(each.hidden.nbytes for each in entered)
    needed = states * (2 * len(run.model.layers) + 2)
    if run.model.intermediates.room < needed:
        require_space(run.model.scratch, needed, "the hidden states of the calibration data")
