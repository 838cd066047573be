"""The tasks that models are trained for, by their heads, their batches, and the loss of each.

GradNorm is the gradient of this loss, and perplexity is its exponential.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto import modeling_auto

from sglp_core.architectures import IMAGE_CLASSIFIERS
from sglp_core.errors import UnsupportedArchitecture

# One calibration sample in this many is used to judge a fit, and the others to fit.
JUDGED_SHARE = 4

Task = Literal[
    "causal_lm",
    "masked_lm",
    "image_classification",
    "text_classification",
    "multi_label_classification",
    "text_regression",
    "question_answering",
    "token_classification",
]
# They can write text, and texts are their labels.
LANGUAGE_MODELS: tuple[Task, ...] = ("causal_lm", "masked_lm")
# A few predictions for a whole image or text.
WHOLE_SAMPLES: tuple[Task, ...] = (
    "image_classification",
    "text_classification",
    "multi_label_classification",
    "text_regression",
    "question_answering",
)
IGNORED = -100
# Labels of the tokens of an answer, added where it is one token.
STARTS, ENDS = 1, 2


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of samples on the CPU: the model's inputs and the labels.

    `inputs` holds `input_ids` and `attention_mask` `[B, T]`, or `pixel_values` `[B, C, H, W]`; `labels` is `[B, T]`
    with -100 where nothing is predicted, or `[B]` for classes of whole samples. Those of several labels are `[B, L]`, 0
    or 1, those of scores `[B, 2]`: the score and the spread (standard deviation) of all scores. Those of answers in a
    text `[B, T]` are 1 at its first token, 2 at its last, 3 where these are one, and -100 at padding.
    """

    inputs: dict[str, Tensor]
    labels: Tensor

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> "Batch":
        """The batch on a device, with images in this type, if one is given."""
        inputs = {
            name: tensor.to(device, dtype if tensor.is_floating_point() else None)
            for name, tensor in self.inputs.items()
        }
        return Batch(inputs, self.labels.to(device))

    def repeated(self, copies: int) -> "Batch":
        """All samples several times after each other."""
        inputs = {name: torch.cat([tensor] * copies) for name, tensor in self.inputs.items()}
        return Batch(inputs, torch.cat([self.labels] * copies))

    def rows(self, first: int, end: int) -> "Batch":
        """The samples from `first` to before `end`."""
        return Batch({name: tensor[first:end] for name, tensor in self.inputs.items()}, self.labels[first:end])

    def chosen(self, numbers: Sequence[int]) -> "Batch":
        """The samples of these numbers, in their order."""
        return Batch({name: tensor[list(numbers)] for name, tensor in self.inputs.items()}, self.labels[list(numbers)])

    def split(self, rows: int) -> Iterator["Batch"]:
        """The same samples in batches of at most `rows`."""
        for first in range(0, len(self.labels), rows):
            yield self.rows(first, first + rows)


def rebatch(batches: Sequence[Batch], rows: int) -> Iterator[Batch]:
    """The same samples in the same order in batches of `rows`, the last may be smaller. All must have one shape.

    A single batch, which may be larger than memory, is not copied.
    """
    if len(batches) == 1:
        yield from batches[0].split(rows)
        return
    inputs = {name: torch.cat([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    yield from Batch(inputs, torch.cat([batch.labels for batch in batches])).split(rows)


def rebatch_evenly(batches: Sequence[Batch], max_rows: int) -> Iterator[Batch]:
    """The same samples in the same order, in batches of at most `max_rows` whose sizes differ by at most one."""
    whole = next(rebatch(batches, sample_count(batches)))
    count = len(whole.labels)
    parts = -(-count // max_rows)
    for part in range(parts):
        yield whole.rows(part * count // parts, (part + 1) * count // parts)


def task_of(model_class: type[transformers.PreTrainedModel], config: transformers.PretrainedConfig) -> Task:
    """The task of a model class, by transformers' own tables and what the configuration says of its head.

    Raises `UnsupportedArchitecture` where no table lists the class, and for a head whose loss is not known.
    """
    task = _listed_task(model_class)
    return task if task in {*LANGUAGE_MODELS, "question_answering"} else _task_of_labels(task, config)


def _listed_task(model_class: type[transformers.PreTrainedModel]) -> Task:
    tables: dict[Task, str] = {
        # Before the causal table: XLMWithLMHeadModel, the one class in both, attends in both directions by default and
        # takes labels at the position that they are predicted for.
        "masked_lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
        "causal_lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
        "image_classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
        "text_classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        "token_classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
        "question_answering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    }
    for task, table in tables.items():
        for entry in getattr(modeling_auto, table).values():
            if model_class.__name__ in ((entry,) if isinstance(entry, str) else entry):
                return task
    if model_class in IMAGE_CLASSIFIERS.values():
        return "image_classification"
    raise UnsupportedArchitecture(
        f"{model_class.__name__} has no head whose loss is known here; looked for a causal or masked language model, "
        "a classifier of images, texts or tokens, or a head that finds answers in a text"
    )


def _task_of_labels(task: Task, config: transformers.PretrainedConfig) -> Task:
    """The task of a classifier, as transformers tells its loss by `num_labels` and `problem_type`."""
    problem = getattr(config, "problem_type", None)
    if task == "text_classification" and problem == "multi_label_classification":
        return "multi_label_classification"
    if task == "text_classification" and config.num_labels == 1:
        return "text_regression"
    if config.num_labels < 2 or problem not in {None, "single_label_classification"}:
        raise UnsupportedArchitecture(
            f"the head of the model has {config.num_labels} outputs ({problem or 'no problem_type'}); looked for a "
            "head that chooses one of several classes, and for texts also one that gives one score or several labels"
        )
    return task


def logits_of(
    model: nn.Module, batch: Batch, weights: Mapping[str, Tensor] | None = None, positions: Tensor | None = None
) -> Tensor:
    """The logits of `logits_in`, computed without the KV cache.

    `weights` replace the model's parameters of the same names, and gradients flow to them. `positions` are the only
    ones to compute logits of, for classes whose `forward` takes `logits_to_keep`.
    """
    extra: dict[str, object] = {}
    # A vision-language model has it in the configuration of its language model.
    config: Any = model.config
    if hasattr(config.get_text_config(), "use_cache") and "input_ids" in batch.inputs:
        extra["use_cache"] = False
    if positions is not None:
        extra["logits_to_keep"] = positions
    inputs = {**batch.inputs, **extra}
    output = model(**inputs) if weights is None else torch.func.functional_call(model, dict(weights), (), inputs)
    return logits_in(output)


def logits_in(output: Any) -> Tensor:
    """Logits `[B, T, V]`, `[B, T, classes]` or `[B, classes]`; of the start and the end of an answer, `[B, 2, T]`.

    Raises `UnsupportedArchitecture` where a model returns none of them.
    """
    logits: Tensor | None = getattr(output, "logits", None)
    if logits is None and hasattr(output, "start_logits"):
        return torch.stack([output.start_logits, output.end_logits], 1)
    if logits is None:
        raise UnsupportedArchitecture(f"the model returns {', '.join(output)}; looked for logits")
    return logits


def predicted(labels: Tensor, task: Task) -> Tensor:
    """Mask `[B, P]` of the predictions that have a label, in the order of the rows of `aligned`."""
    match task:
        case "causal_lm":
            return labels[:, 1:] != IGNORED
        case "masked_lm" | "token_classification":
            return labels != IGNORED
        case "multi_label_classification":
            return torch.ones_like(labels, dtype=torch.bool)
        case "image_classification" | "text_classification" | "text_regression":
            return torch.ones(len(labels), 1, dtype=torch.bool, device=labels.device)
        case "question_answering":
            return torch.ones(len(labels), 2, dtype=torch.bool, device=labels.device)


def aligned(logits: Tensor, labels: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Logits `[N, V]` and labels `[N]` of what is predicted; row i of the logits predicts label i.

    A label that may be set or not has two logits, so that their cross-entropy is the binary one. Scores `[N, 1]` and
    their labels are divided by the spread of scores.
    """
    match task:
        case "causal_lm":
            keep = predicted(labels, task)
            return logits[:, :-1][keep], labels[:, 1:][keep]
        case "masked_lm" | "token_classification":
            keep = predicted(labels, task)
            return logits[keep], labels[keep]
        case "image_classification" | "text_classification":
            return logits, labels
        case "multi_label_classification":
            return torch.stack([torch.zeros_like(logits), logits], -1).flatten(0, 1), labels.flatten()
        case "text_regression":
            score, spread = labels.unbind(1)
            return logits.float() / spread[:, None], score / spread
        case "question_answering":
            rows = logits.masked_fill((labels == IGNORED)[:, None], torch.finfo(logits.dtype).min)
            ends = torch.stack([(labels == part) | (labels == STARTS + ENDS) for part in (STARTS, ENDS)], 1)
            return rows.flatten(0, 1), ends.int().argmax(-1).flatten()


def logit_rows(inputs: Mapping[str, Tensor], task: Task) -> tuple[int, ...]:
    """The shape of the logits of these inputs without their last dimension: `[B, T]`, `[B, 2]` or `[B]`."""
    shape = next(iter(inputs.values())).shape
    if task == "question_answering":
        return (shape[0], 2)
    return shape[: 1 if task in WHOLE_SAMPLES else 2]


def example_labels(inputs: Mapping[str, Tensor], task: Task, labels: int) -> Tensor:
    """Labels of these inputs that are all 0, with a spread of 1 where they are scores; `labels` is what a head has."""
    if task == "text_regression":
        return torch.tensor([[0.0, 1.0]]).repeat(logit_rows(inputs, task)[0], 1)
    shape = logit_rows(inputs, task)
    if task == "multi_label_classification":
        shape = (*shape, labels)
    if task == "question_answering":
        shape = inputs["input_ids"].shape
    return torch.zeros(shape, dtype=torch.long)


def predictions(labels: Tensor, task: Task) -> int:
    """How many positions have a label that is predicted."""
    return int(predicted(labels, task).sum())


def loss_of(logits: Tensor, labels: Tensor, task: Task) -> Tensor:
    """The mean loss in nats over what is predicted, whose gradient tells which layers matter.

    It is the cross-entropy, and of scores half of the squared error in spreads. The error from a model's own scores has
    no gradient, so the labels are one spread beside them, above and below in turn: draws from the distribution whose
    loss this is, as the Fisher information takes them (Kunstner et al., arXiv 1905.12558).
    """
    rows, targets = aligned(logits, labels, task)
    if task == "text_regression":
        above = 1 - 2 * (torch.arange(len(targets), device=targets.device) % 2)
        return squared_errors(rows, targets + above).mean()
    return nn.functional.cross_entropy(rows.float(), targets)


def squared_errors(scores: Tensor, targets: Tensor) -> Tensor:
    """Half of the squared error of scores `[N, 1]`: nats beside those of a normal distribution of spread 1, `[N]`."""
    return (scores[:, 0] - targets).square() / 2


def split(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Calibration batches to fit on, and the last quarter of the samples (at least one) to judge on.

    Both are empty where there is only one sample.
    """
    judged: list[Batch] = []
    missing = max(1, sample_count(batches) // JUDGED_SHARE)
    fitted = list(batches)
    while missing:
        last = fitted.pop()
        count = min(missing, len(last.labels))
        if count < len(last.labels):
            fitted.append(last.rows(0, len(last.labels) - count))
        judged.append(last.rows(len(last.labels) - count, len(last.labels)))
        missing -= count
    return (fitted, judged) if fitted else ([], [])


def sample_count(batches: Sequence[Batch]) -> int:
    """The number of windows, texts or images in all batches."""
    return sum(len(batch.labels) for batch in batches)
