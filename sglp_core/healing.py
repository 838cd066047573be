"""A short fine-tuning after the cut: the layers next to it and what follows the stack learn to do without.

Teacher and student share one copy of the weights. The dense model is the model itself; the pruned one is the same
modules with the removed layers bypassed and copies of the trained tensors in place of the originals, so only those few
are held twice.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from sglp_core.evaluation import evaluate
from sglp_core.layers import StackPath, layer_names, layer_output, layers_of
from sglp_core.objectives import Batch, Task, aligned, logits_of
from sglp_core.repair import runs_of, split, windows
from sglp_core.surgery import bypassed
from sglp_core.weights import Changes, owners

HealingLoss = Literal["distil", "plain"]
# How often held-out data is asked, and after how many answers without progress it is over.
JUDGEMENTS = 8
PATIENCE = 3
WARM_UP = 0.1


@dataclass(frozen=True)
class Healing:
    """`steps` optimiser steps (0: none) of one calibration batch each, at most `learning_rate`.

    `distil` follows the dense model's distribution (KL), `plain` the text itself (cross-entropy).
    """

    steps: int = 0
    learning_rate: float = 1e-4
    loss: HealingLoss = "distil"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"healing steps must not be negative, not {self.steps}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"the learning rate must be a positive number, not {self.learning_rate}")
        if self.loss not in get_args(HealingLoss):
            raise ValueError(f"healing loss must be one of {', '.join(get_args(HealingLoss))}, not {self.loss!r}")


@dataclass(frozen=True)
class Judgement:
    """What held-out windows say after a number of steps; loss and KL in nats a position."""

    step: int
    loss: float
    kl: float


@dataclass(frozen=True)
class Healed:
    """The weights to change (those of the repair too), which tensors were trained, and how it went.

    `step` is the one whose weights were kept; 0 where training made nothing better, and the weights are those given.
    """

    changes: Changes
    trained_tensors: tuple[str, ...]
    step: int
    curve: tuple[Judgement, ...]
    trained_windows: int
    judged_windows: int

    def to_dict(self) -> dict[str, Any]:
        curve = [{n: v if math.isfinite(v) else None for n, v in asdict(point).items()} for point in self.curve]
        return {
            "trained_windows": self.trained_windows,
            "judged_windows": self.judged_windows,
            "trained_tensors": list(self.trained_tensors),
            "kept_step": self.step,
            "curve": curve,
        }


def heal(
    model: Any,
    path: StackPath,
    batches: Sequence[Batch],
    task: Task,
    removed: Sequence[int],
    changes: Changes,
    healing: Healing,
    seed: int = 0,
    on_step: Callable[[int], None] = lambda _done: None,
) -> Healed:
    """Train copies of a few tensors on most of the batches; the dense `model` itself stays as it is.

    Starts from the pruned model with `changes`, and gives back the weights that did best on the batches not trained on
    (by KL when distilling, else by loss), which are the given ones where nothing did better.
    """
    trained_on, judged = split(batches)
    if not healing.steps or not trained_on:
        return Healed(changes, (), 0, (), 0, 0)
    layers = layers_of(model, path)
    names = trained_names(model, path, removed, trained_on[0])

    def judge(step: int, weights: Changes) -> Judgement:
        found = evaluate(model, layers, judged, task, {"healed": removed}, weights={"healed": weights})["healed"]
        return Judgement(step, math.log(found.perplexity), found.kl)

    def figure(judgement: Judgement) -> float:
        return judgement.kl if healing.loss == "distil" else judgement.loss

    curve = [judge(0, changes)]
    best, kept = curve[0], changes
    # Optimiser steps are lost in half precision, so what is trained is held in float32.
    masters = {n: changes.get(n, model.get_parameter(n).data).detach().float().clone().requires_grad_() for n in names}
    optimizer = torch.optim.AdamW(masters.values(), lr=healing.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, healing.steps))
    order = _shuffled(trained_on, seed)
    with _nothing_else_trained(model):
        for step in range(1, healing.steps + 1):
            batch = next(order).to(model.device)
            current = {n: master.to(model.get_parameter(n).dtype) for n, master in masters.items()}
            _loss(model, layers, batch, task, removed, {**changes, **current}, healing.loss).backward()
            nn.utils.clip_grad_norm_(masters.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            on_step(step)
            if step % max(1, healing.steps // JUDGEMENTS) and step != healing.steps:
                continue
            now = {
                **changes,
                **{n: master.detach().to(model.get_parameter(n).dtype, copy=True) for n, master in masters.items()},
            }
            curve.append(judge(step, now))
            if figure(curve[-1]) < figure(best):
                best, kept = curve[-1], now
            elif len(curve) - 1 - curve.index(best) >= PATIENCE:
                break
    return Healed(kept, names, best.step, tuple(curve), windows(trained_on), windows(judged))


def trained_names(model: Any, path: StackPath, removed: Sequence[int], batch: Batch) -> tuple[str, ...]:
    """Parameters of the kept layers next to a cut, and of whatever follows the stack (last norm, head).

    A head that is tied to the embeddings stays as it is.
    """
    layers = layer_names(model, path)
    gone = set(removed)
    near = {side for first, last in runs_of(removed) for side in (first - 1, last + 1)} & set(range(len(layers))) - gone
    prefixes = tuple(f"{layers[index]}." for index in sorted(near))
    behind = _behind_the_stack(model, path, batch)
    return tuple(
        name
        for name, parameter in model.named_parameters()
        if (name.startswith(prefixes) or name in behind) and owners(model, parameter) == 1
    )


def _behind_the_stack(model: Any, path: StackPath, batch: Batch) -> set[str]:
    """The parameters that still have a gradient when the last layer's output is cut off from what made it."""

    def cut_off(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = layer_output(output).detach()
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    layers = layers_of(model, path)
    inside = tuple(f"{name}." for name in layer_names(model, path))
    outside = {n: p for n, p in model.named_parameters() if not n.startswith(inside)}
    handle = layers[-1].register_forward_hook(cut_off)
    try:
        with _nothing_else_trained(model):
            for parameter in outside.values():
                parameter.requires_grad_(True)
            logits = logits_of(model, batch.rows(0, 1).to(model.device))
            gradients = torch.autograd.grad(logits.float().sum(), list(outside.values()), allow_unused=True)
    finally:
        handle.remove()
    return {name for name, gradient in zip(outside, gradients, strict=True) if gradient is not None}


def _loss(
    model: Any,
    layers: nn.ModuleList,
    batch: Batch,
    task: Task,
    removed: Sequence[int],
    weights: Mapping[str, Tensor],
    kind: HealingLoss,
) -> Tensor:
    with bypassed(layers, removed):
        rows, labels = aligned(logits_of(model, batch, weights), batch.labels, task)
    if kind == "plain":
        return nn.functional.cross_entropy(rows.float(), labels)
    with torch.no_grad():
        wanted, _ = aligned(logits_of(model, batch), batch.labels, task)
    return nn.functional.kl_div(
        rows.float().log_softmax(-1), wanted.float().log_softmax(-1), log_target=True, reduction="batchmean"
    )


@contextmanager
def _nothing_else_trained(model: nn.Module) -> Iterator[None]:
    """No gradients for the model's own parameters; everything is put back afterwards."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, wanted in before.items():
            parameter.requires_grad_(wanted)


def _shuffled(batches: Sequence[Batch], seed: int) -> Iterator[Batch]:
    """All batches in an order drawn anew each time round, without end."""
    generator = random.Random(seed)
    while True:
        yield from generator.sample(batches, len(batches))


def _rate(step: int, steps: int) -> float:
    """A short rise, then straight down to zero."""
    warm = max(1, round(WARM_UP * steps))
    return (step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm)
