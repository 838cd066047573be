"""Read a user's documents for a text classifier and label each with the class that the dense model predicts.

So accuracy on them is agreement with the dense model, as for images without labels (`images.py`).
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sglp_core.data.text_files import draw_texts
from sglp_core.data.token_windows import LEAST_TEXT_CHARACTERS, PROBE_ROWS, PROBE_TOKENS, TEXT_CHARACTERS_A_TOKEN
from sglp_core.errors import BadCalibration, as_unsupported
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import logits_of_one
from sglp_core.tasks import Batch, Task

LABELLED_AT_ONCE = 16


@dataclass(frozen=True)
class LabelledTexts:
    """Tokens of texts `[N, T]` with their attention mask, and the class of each `[N]`."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    noun: str = "texts labelled by the dense model itself"

    @property
    def digest(self) -> str:
        parts = (self.input_ids, self.attention_mask, self.labels)
        return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()

    @property
    def probe(self) -> dict[str, Tensor]:
        """The starts of two texts for comparing logits."""
        ids, mask = (part[:PROBE_ROWS, :PROBE_TOKENS] for part in (self.input_ids, self.attention_mask))
        return {"input_ids": ids, "attention_mask": mask}

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, first: int) -> tuple["LabelledTexts", "LabelledTexts"]:
        ids, mask, labels = self.input_ids, self.attention_mask, self.labels
        return LabelledTexts(ids[:first], mask[:first], labels[:first]), LabelledTexts(
            ids[first:], mask[first:], labels[first:]
        )

    def batches(self, _task: Task, _processor: Any, batch_size: int, _seed: int) -> Iterator[Batch]:
        yield from Batch({"input_ids": self.input_ids, "attention_mask": self.attention_mask}, self.labels).split(
            batch_size
        )


def read_labelled_texts(
    file: Path, model: LayeredModel, tokenizer: Any, count: int, length: int, seed: int
) -> LabelledTexts:
    """Up to `count` documents of a user's file, each cut at `length` tokens, in an order drawn at random with the seed.

    Raises `BadCalibration`, and `UnsupportedArchitecture` where the model cannot read them.
    """
    most = LEAST_TEXT_CHARACTERS + TEXT_CHARACTERS_A_TOKEN * count * length
    documents = draw_texts(file, most, seed)
    if not documents:
        raise BadCalibration(f"{file.name} holds no text")
    random.Random(seed).shuffle(documents)
    if tokenizer.pad_token_id is None:
        raise BadCalibration("the tokenizer has no padding token, so texts of different lengths cannot form a batch")
    tokens = tokenizer(documents[:count], padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
    return LabelledTexts(**inputs, labels=_predicted(model, inputs))


@torch.no_grad()
def _predicted(model: LayeredModel, inputs: dict[str, Tensor]) -> Tensor:
    batches = Batch(inputs, torch.zeros(len(inputs["input_ids"]))).split(LABELLED_AT_ONCE)
    with as_unsupported("the model cannot read a batch of texts"):
        return torch.cat([logits.argmax(-1).cpu() for logits in logits_of_one(model, list(batches))])
