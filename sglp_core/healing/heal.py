"""A short fine-tuning after the cut: a few tensors, or updates of low rank, learn to do without the removed layers.

Teacher and student share one copy of the weights. The dense model is the model itself; the pruned one is the same
modules with the removed layers bypassed and what is trained in place of the originals, so only that is held twice.
"""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.evaluation.quality import evaluate
from sglp_core.healing.lora import Adapters, linear_layers
from sglp_core.healing.neighbouring_layers import Neighbours
from sglp_core.healing.training_state import Judgement, KeptState, State
from sglp_core.options import Healing, HealingLoss
from sglp_core.removal.bypass import bypassed
from sglp_core.removal.weight_changes import Changes, frozen
from sglp_core.structure.layer_stack import StackPath, layers_of
from sglp_core.tasks import Batch, Task, aligned, logits_of, split, windows

# How often held-out data is asked, and after how many answers without progress it is over.
JUDGEMENTS = 8
PATIENCE = 3
WARM_UP = 0.1
# Where judgements are further apart than this, the state is kept in between too.
KEPT_EVERY_SECONDS = 60.0


class Trainable(Protocol):
    """What is trained of a pruned model: leaf `tensors` in float32, and how they become weights called `names`."""

    names: tuple[str, ...]
    tensors: dict[str, Tensor]

    def logits(self, batch: Batch) -> Tensor: ...
    def changes(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True)
class Healed:
    """The weights to change (those of the repair too), which tensors were trained, and how it went.

    `step` is the one whose weights were kept; 0 where training made nothing better, and the weights are those given.
    `resumed_from_step` is where an earlier process was stopped, 0 where there was none.
    """

    changes: Changes
    trained_tensors: tuple[str, ...]
    step: int
    curve: tuple[Judgement, ...]
    trained_windows: int
    judged_windows: int
    resumed_from_step: int = 0


def require_trainable(healing: Healing, model: Any, path: StackPath) -> None:
    """Raise `UnsupportedArchitecture` where the model has nothing to train in this way."""
    if healing.steps and healing.trained == "lora" and not linear_layers(model, path):
        raise UnsupportedArchitecture(
            f"the layers of {type(model).__name__} have no linear layers of their own, which is what LoRA adapts; "
            "heal the neighbours of the cuts instead"
        )


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
    kept: KeptState | None = None,
) -> Healed:
    """Train on most of the batches; the dense `model` itself stays as it is.

    Starts from the pruned model with `changes`, or where the state `kept` says that an earlier process got to, and
    gives back the weights that did best on the batches not trained on (by KL when distilling, else by loss), which are
    the given ones where nothing did better.
    """
    trained_on, judged = split(batches)
    if not healing.steps or not trained_on:
        return Healed(changes, (), 0, (), 0, 0)
    layers = layers_of(model, path)

    def judge(step: int, weights: Changes) -> Judgement:
        found = evaluate(model, layers, judged, task, {"healed": removed}, weights={"healed": weights})["healed"]
        return Judgement(step, math.log(found.perplexity), found.kl)

    with frozen(model):
        trainable: Trainable = (
            Adapters(model, path, removed, changes, seed)
            if healing.trained == "lora"
            else Neighbours(model, path, removed, changes, trained_on[0])
        )
        optimizer = torch.optim.AdamW(trainable.tensors.values(), lr=healing.highest_rate, weight_decay=0.0)
        resumed_from_step, best, curve = _resumed(trainable, optimizer, kept)
        if curve:
            on_step(resumed_from_step)
        else:
            curve = [judge(0, changes)]
        order = itertools.islice(_shuffled(trained_on, seed), resumed_from_step, None)
        kept_at = time.monotonic()
        for step in range(resumed_from_step + 1, healing.steps + 1):
            if _is_over(curve, healing):
                break
            for group in optimizer.param_groups:
                group["lr"] = healing.highest_rate * _rate(step - 1, healing.steps)
            batch = next(order).to(model.device)
            _loss(model, layers, batch, task, removed, trainable, healing.loss).backward()
            nn.utils.clip_grad_norm_(trainable.tensors.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            on_step(step)
            judging = step % max(1, healing.steps // JUDGEMENTS) == 0 or step == healing.steps
            if judging:
                curve.append(judge(step, _detached(trainable.changes())))
                if _best(curve, healing) is curve[-1]:
                    best = {name: tensor.detach().clone() for name, tensor in trainable.tensors.items()}
            if kept and (judging or time.monotonic() - kept_at >= KEPT_EVERY_SECONDS):
                kept.keep(State(step, trainable.tensors, optimizer.state_dict()["state"], best, tuple(curve)))
                kept_at = time.monotonic()
        if best:
            _fill(trainable, best)
            changes = _detached(trainable.changes())
    return Healed(
        changes,
        trainable.names,
        _best(curve, healing).step,
        tuple(curve),
        windows(trained_on),
        windows(judged),
        resumed_from_step,
    )


def _resumed(
    trainable: Trainable, optimizer: torch.optim.Optimizer, kept: KeptState | None
) -> tuple[int, Mapping[str, Tensor], list[Judgement]]:
    """Go to where an earlier process got, if there was one; returns its step, its best tensors and its curve."""
    state = kept.find() if kept else None
    if state is None:
        return 0, {}, []
    _fill(trainable, state.tensors)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state.optimizer})
    return state.step, state.best, list(state.curve)


def _best(curve: Sequence[Judgement], healing: Healing) -> Judgement:
    """The first of the best; what is no number is never better."""
    best = curve[0]
    for point in curve[1:]:
        if _figure(point, healing) < _figure(best, healing):
            best = point
    return best


def _figure(judgement: Judgement, healing: Healing) -> float:
    return judgement.kl if healing.loss == "distil" else judgement.loss


def _is_over(curve: Sequence[Judgement], healing: Healing) -> bool:
    return len(curve) - 1 - curve.index(_best(curve, healing)) >= PATIENCE


def _detached(changes: Changes) -> Changes:
    return {name: tensor.detach() for name, tensor in changes.items()}


def _fill(trainable: Trainable, values: Mapping[str, Tensor]) -> None:
    for name, tensor in trainable.tensors.items():
        tensor.data.copy_(values[name])


def _loss(
    model: Any,
    layers: nn.ModuleList,
    batch: Batch,
    task: Task,
    removed: Sequence[int],
    trainable: Trainable,
    kind: HealingLoss,
) -> Tensor:
    with bypassed(layers, removed):
        rows, labels = aligned(trainable.logits(batch), batch.labels, task)
    if kind == "plain":
        return nn.functional.cross_entropy(rows.float(), labels)
    with torch.no_grad():
        wanted, _ = aligned(logits_of(model, batch), batch.labels, task)
    return nn.functional.kl_div(
        rows.float().log_softmax(-1), wanted.float().log_softmax(-1), log_target=True, reduction="batchmean"
    )


def _shuffled(batches: Sequence[Batch], seed: int) -> Iterator[Batch]:
    """All batches in an order drawn anew each time round, without end."""
    generator = random.Random(seed)
    while True:
        yield from generator.sample(batches, len(batches))


def _rate(step: int, steps: int) -> float:
    """A short rise, then straight down to zero."""
    warm = max(1, round(WARM_UP * steps))
    return (step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm)
