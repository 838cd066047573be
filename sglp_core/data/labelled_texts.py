"""Read a user's documents for a model that is not a language model, and label them with its own answers.

So accuracy on them is agreement with the dense model, as for images without labels (`images.py`).
"""

import itertools
import random
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sglp_core.data.embedded_tokens import require_embedded
from sglp_core.data.predicted_labels import predicted_labels
from sglp_core.data.samples import digest_of
from sglp_core.data.text_files import draw_texts
from sglp_core.data.token_windows import LEAST_TEXT_CHARACTERS, PROBE_ROWS, PROBE_TOKENS, TEXT_CHARACTERS_A_TOKEN
from sglp_core.errors import BadCalibration, as_unsupported
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.mapped_tensor import mapped_tensor
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.tasks import Batch, Task

TOKENIZED_AT_ONCE = 64
NOUNS = {
    "text_classification": "texts labelled by the dense model itself",
    "multi_label_classification": "texts labelled by the dense model itself",
    "text_regression": "texts scored by the dense model itself",
    "question_answering": "texts whose answers are those of the dense model itself",
    "token_classification": "texts whose tokens are labelled by the dense model itself",
}


@dataclass(frozen=True)
class LabelledTexts:
    """Tokens of texts `[N, T]` with their attention mask, and labels as `Batch` has them.

    `noun` says in reports what is labelled.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    noun: str

    @property
    def digest(self) -> str:
        return digest_of(self.input_ids, self.attention_mask, self.labels)

    @property
    def probe(self) -> dict[str, Tensor]:
        """The starts of two texts for comparing logits."""
        ids, mask = (part[:PROBE_ROWS, :PROBE_TOKENS] for part in (self.input_ids, self.attention_mask))
        return {"input_ids": ids, "attention_mask": mask}

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, first: int) -> tuple["LabelledTexts", "LabelledTexts"]:
        ids, mask, labels = self.input_ids, self.attention_mask, self.labels
        return LabelledTexts(ids[:first], mask[:first], labels[:first], self.noun), LabelledTexts(
            ids[first:], mask[first:], labels[first:], self.noun
        )

    def batches(self, _task: Task, _processor: Any, batch_size: int, _seed: int) -> Iterator[Batch]:
        return self._whole.split(batch_size)

    def to_train_on(self, _loaded: LoadedModel, _batch_size: int, _seed: int) -> Batch:
        return self._whole

    @property
    def _whole(self) -> Batch:
        return Batch({"input_ids": self.input_ids, "attention_mask": self.attention_mask}, self.labels)


def read_labelled_texts(
    file: Path, model: LayeredModel, tokenizer: Any, count: int, length: int, seed: int
) -> LabelledTexts:
    """Up to `count` documents of a user's file, each cut at `length` tokens, in an order drawn at random with the seed.

    Raises `BadCalibration`, `UnsupportedArchitecture` where the model cannot read them, and `InsufficientStorage`.
    """
    most = LEAST_TEXT_CHARACTERS + TEXT_CHARACTERS_A_TOKEN * count * length
    documents = draw_texts(file, most, seed)
    if not documents:
        raise BadCalibration(f"{file.name} holds no text")
    if tokenizer.pad_token_id is None:
        raise BadCalibration("the tokenizer has no padding token, so texts of different lengths cannot form a batch")
    order = array("q", range(len(documents)))
    random.Random(seed).shuffle(order)
    order = order[:count]
    inputs = {
        name: mapped_tensor((len(order), length), torch.long, model.scratch, f"the tokens of {file.name}")
        for name in ("input_ids", "attention_mask", "special_tokens_mask")
    }
    row_of = np.full(len(documents), -1)
    row_of[order] = np.arange(len(order))
    # In the order of the file.
    chosen = ((int(row), text) for row, text in zip(row_of, documents, strict=True) if row >= 0)
    while piece := list(itertools.islice(chosen, TOKENIZED_AT_ONCE)):
        rows, texts = map(list, zip(*piece, strict=True))
        tokens = tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
            return_special_tokens_mask=True,
        )
        for name, tensor in inputs.items():
            tensor[rows] = tokens[name]
    require_embedded(inputs["input_ids"], model.model, tokenizer)
    special = inputs.pop("special_tokens_mask")
    with as_unsupported("the model cannot read a batch of texts"):
        labels = predicted_labels(model, inputs, special)
    return LabelledTexts(**inputs, labels=labels, noun=NOUNS[model.task])
