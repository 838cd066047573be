"""What a model was trained to predict, as one loss: next tokens, masked tokens, or a class.

The loss is what GradNorm differentiates and what perplexity is made of.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from sglp_core.architectures import IMAGE_CLASSIFIERS
from sglp_core.errors import UnsupportedArchitecture

# One in this many of the calibration windows judges; the others are fitted on.
JUDGED_SHARE = 4

Task = Literal["causal_lm", "masked_lm", "image_classification", "text_classification"]
# One prediction for a whole image or text.
CLASSIFICATIONS: tuple[Task, ...] = ("image_classification", "text_classification")
IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """One calibration batch on the CPU: the model's inputs, and the label of every position (or image) that counts.

    `inputs` holds `input_ids` and `attention_mask` `[B, T]`, or `pixel_values` `[B, C, H, W]`; `labels` is `[B, T]`
    with -100 where nothing is predicted, or, of classifiers, `[B]`.
    """

    inputs: dict[str, Tensor]
    labels: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch({name: tensor.to(device) for name, tensor in self.inputs.items()}, self.labels.to(device))

    def rows(self, first: int, end: int) -> "Batch":
        """The samples from `first` to before `end`."""
        return Batch({name: tensor[first:end] for name, tensor in self.inputs.items()}, self.labels[first:end])

    def split(self, rows: int) -> Iterator["Batch"]:
        """The same windows (or images), at most `rows` at a time."""
        for first in range(0, len(self.labels), rows):
            part = slice(first, first + rows)
            yield Batch({name: tensor[part] for name, tensor in self.inputs.items()}, self.labels[part])


def together(batches: Sequence[Batch], rows: int) -> Iterator[Batch]:
    """The same samples in the same order, `rows` at a time and what is left at the end. All must have one shape."""
    inputs = {name: torch.cat([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    yield from Batch(inputs, torch.cat([batch.labels for batch in batches])).split(rows)


def evenly(batches: Sequence[Batch], most: int) -> Iterator[Batch]:
    """The same samples in the same order, in batches of at most `most` whose sizes differ by one at most."""
    whole = next(together(batches, sum(len(batch.labels) for batch in batches)))
    count = len(whole.labels)
    parts = -(-count // most)
    for part in range(parts):
        yield whole.rows(part * count // parts, (part + 1) * count // parts)


def task_of(model_class: type[transformers.PreTrainedModel]) -> Task:
    """The task of a stock class, by transformers' own tables; raises `UnsupportedArchitecture` where it has no head."""
    tables: dict[Task, list[str]] = {
        "causal_lm": ["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"],
        "masked_lm": ["MODEL_FOR_MASKED_LM_MAPPING_NAMES"],
        "image_classification": ["MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"],
        "text_classification": ["MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"],
    }
    # Masked first: BERT-like classes with both heads are listed by their own class name in one table only.
    for task, names in tables.items():
        for name in names:
            for entry in getattr(modeling_auto, name).values():
                if model_class.__name__ in ((entry,) if isinstance(entry, str) else entry):
                    return task
    if model_class in IMAGE_CLASSIFIERS.values():
        return "image_classification"
    raise UnsupportedArchitecture(
        f"{model_class.__name__} has no head whose loss is known here; looked for a causal or masked language model, "
        "or a classifier of images or texts"
    )


def require_classes(config: transformers.PretrainedConfig, task: Task) -> None:
    """Raises `UnsupportedArchitecture` for a model with a head of classes that does not choose one of several."""
    kind = getattr(config, "problem_type", None)
    if task == "text_classification" and (config.num_labels < 2 or kind not in {None, "single_label_classification"}):
        raise UnsupportedArchitecture(
            f"the model gives {config.num_labels} numbers ({kind or 'regression'}); looked for a head that chooses one "
            "of several classes, since its loss is the cross-entropy of one class"
        )


def logits_of(model: nn.Module, batch: Batch, weights: Mapping[str, Tensor] | None = None) -> Tensor:
    """Logits `[B, T, V]` or `[B, classes]`, without the cache that only generation needs.

    `weights` take the place of the model's parameters of those names, and gradients flow to them.
    """
    extra = {"use_cache": False} if hasattr(model.config, "use_cache") and "input_ids" in batch.inputs else {}
    inputs = {**batch.inputs, **extra}
    output = model(**inputs) if weights is None else torch.func.functional_call(model, dict(weights), (), inputs)
    logits: Tensor = output.logits
    return logits


def aligned(logits: Tensor, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Logits `[N, V]` and labels `[N]` of the positions that count, each logit row beside the label it predicts."""
    if task == "causal_lm":
        logits, labels = logits[:, :-1], labels[:, 1:]
    keep = labels != IGNORED
    return logits[keep], labels[keep]


def loss_of(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Mean cross-entropy in nats over the positions that count."""
    rows, targets = aligned(logits, labels, task)
    return nn.functional.cross_entropy(rows.float(), targets)


def split(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Calibration batches to fit on, and the last quarter of the windows (at least one) to judge on.

    Both are empty where there is only one window.
    """
    judged: list[Batch] = []
    wanted = max(1, windows(batches) // JUDGED_SHARE)
    fitted = list(batches)
    while wanted:
        last = fitted.pop()
        count = min(wanted, len(last.labels))
        if count < len(last.labels):
            fitted.append(last.rows(0, len(last.labels) - count))
        judged.append(last.rows(len(last.labels) - count, len(last.labels)))
        wanted -= count
    return (fitted, judged) if fitted else ([], [])


def windows(batches: Sequence[Batch]) -> int:
    """How many texts or images."""
    return sum(len(batch.labels) for batch in batches)
