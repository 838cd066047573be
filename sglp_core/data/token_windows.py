"""Cut text into token windows of one length, and make batches with labels of them.

Every window has the special tokens that the tokenizer adds to a text, such as the beginning-of-sequence token.
"""

import random
import re
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sglp_core.data.samples import digest_of
from sglp_core.data.text_files import DrawnTexts, draw_texts
from sglp_core.errors import BadCalibration, InsufficientStorage
from sglp_core.execution.mapped_tensor import mapped_tensor
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.tasks import IGNORED, Batch, Task

PROBE_ROWS = 2
# Longer than the local attention window of many models (ModernBERT: 128), which a shorter probe would not test.
PROBE_TOKENS = 160
MASKED_SHARE = 0.15
# Of a large text, at least this much is read, and about twice as much as the windows hold.
LEAST_TEXT_CHARACTERS = 1 << 23
TEXT_CHARACTERS_A_TOKEN = 8
# How much text is tokenized at a time. No tokenizer has a token that goes on after the beginning of a word.
CHARACTERS_AT_ONCE = 1 << 16
FEWEST_TOKENS = 8
WORD_START = re.compile(r"(?<=\S) (?=\S)")


@dataclass(frozen=True)
class Windows:
    """Token windows `[N, T]` with their attention mask `[N, T]`."""

    input_ids: Tensor
    attention_mask: Tensor
    noun: ClassVar[str] = "windows"

    @property
    def digest(self) -> str:
        return digest_of(self.input_ids, self.attention_mask)

    @property
    def probe(self) -> dict[str, Tensor]:
        """A short input for comparing logits: the starts of two windows, with padding treated as text."""
        ids = self.input_ids[:PROBE_ROWS, :PROBE_TOKENS]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def __len__(self) -> int:
        return len(self.input_ids)

    def split(self, first: int) -> tuple["Windows", "Windows"]:
        return (
            Windows(self.input_ids[:first], self.attention_mask[:first]),
            Windows(self.input_ids[first:], self.attention_mask[first:]),
        )

    def batches(self, task: Task, processor: Any, batch_size: int, seed: int) -> Iterator[Batch]:
        return batches(self, task, processor, batch_size, seed)

    def to_train_on(self, loaded: LoadedModel, batch_size: int, seed: int) -> Batch:
        ids, labels = (_mapped(self.input_ids.shape, loaded.scratch) for _ in range(2))
        first = 0
        for batch in self.batches(loaded.task, loaded.processor, batch_size, seed):
            rows = slice(first, first + len(batch.labels))
            ids[rows], labels[rows] = batch.inputs["input_ids"], batch.labels
            first = rows.stop
        return Batch({"input_ids": ids, "attention_mask": self.attention_mask}, labels)


def text_windows(
    file: Path, tokenizer: Any, count: int, length: int, seed: int, scratch: Path = Path(tempfile.gettempdir())
) -> Windows:
    """Up to `count` windows of `length` tokens cut from a user's file, in an order drawn at random with the seed.

    They and the tokens that they are cut from are in files in `scratch`. Of a file with far more text than that, only a
    random sample of its documents is used (`text_files.py`). Raises `BadCalibration` for a file that is empty,
    unreadable or of an unknown format, and `InsufficientStorage`.
    """
    prefix, suffix = special_tokens(tokenizer)
    body = length - len(prefix) - len(suffix)
    if body < 2:
        raise BadCalibration(f"a window of {length} tokens leaves no room beside the tokenizer's special tokens")
    documents = draw_texts(file, LEAST_TEXT_CHARACTERS + TEXT_CHARACTERS_A_TOKEN * count * length, seed)
    if not documents:
        raise BadCalibration(f"{file} holds no text")
    with TemporaryFile(dir=scratch) as tokens:
        stream = _tokenized(documents, tokenizer, tokens)
        if len(stream) < FEWEST_TOKENS:
            raise BadCalibration(f"{file} holds only {len(stream)} tokens; give at least a few sentences")
        starts = array("q", range(0, max(len(stream) - body, 0) + 1, body))
        random.Random(seed).shuffle(starts)
        starts = starts[:count]
        ids, mask = (_mapped((len(starts), length), scratch) for _ in range(2))
        ids.fill_(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)
        for row, start in enumerate(starts):
            tokens_of_row = [*prefix, *stream[start : start + body].tolist(), *suffix]
            ids[row, : len(tokens_of_row)] = torch.tensor(tokens_of_row)
            mask[row, : len(tokens_of_row)] = 1
    return Windows(ids, mask)


def batches(windows: Windows, task: Task, tokenizer: Any, batch_size: int, seed: int) -> Iterator[Batch]:
    """Windows as model inputs with labels; for a masked model, a random 15 % of the tokens are masked with the seed."""
    generator = torch.Generator().manual_seed(seed)
    for ids, mask in zip(windows.input_ids.split(batch_size), windows.attention_mask.split(batch_size), strict=True):
        if task == "causal_lm":
            yield Batch({"input_ids": ids, "attention_mask": mask}, ids.masked_fill(mask == 0, IGNORED))
            continue
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        chosen = (torch.rand(ids.shape, generator=generator) < MASKED_SHARE) & (mask == 1) & ~special
        chosen[:, ids.shape[1] // 2] |= ~chosen.any(1) & (mask[:, ids.shape[1] // 2] == 1)
        masked = ids.masked_fill(chosen, tokenizer.mask_token_id)
        yield Batch({"input_ids": masked, "attention_mask": mask}, ids.masked_fill(~chosen, IGNORED))


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer adds before and after a text.

    They are found by tokenising one word with and without them.
    """
    plain = tokenizer("word", add_special_tokens=False)["input_ids"]
    full = tokenizer("word")["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start], full[start + len(plain) :]
    return [], []


def _parts(document: str) -> Iterator[str]:
    """The document cut before words: a part has `CHARACTERS_AT_ONCE`, and what is left of the last word."""
    start = 0
    while word := WORD_START.search(document, start + CHARACTERS_AT_ONCE):
        yield document[start : word.start()]
        start = word.start()
    yield document[start:]


def _tokenized(documents: DrawnTexts, tokenizer: Any, file: IO[bytes]) -> np.ndarray:
    """The tokens of all documents, mapped from the file that they are written to."""
    # Documents are joined with the end token of the tokenizer between them, as in the training of language models.
    separator = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    try:
        for document in documents:
            # A tokenizer keeps hundreds of bytes a character until a call ends.
            for part in _parts(document):
                array("i", tokenizer(part, add_special_tokens=False)["input_ids"]).tofile(file)
            array("i", separator).tofile(file)
        file.flush()
    except OSError as error:
        raise InsufficientStorage(f"the tokens of {documents.path} cannot be written: {error}") from error
    # A file without a byte cannot be mapped.
    return np.memmap(file, np.intc, "r") if file.tell() else np.empty(0, np.intc)


def _mapped(shape: Sequence[int], scratch: Path) -> Tensor:
    return mapped_tensor(shape, torch.long, scratch, "the token windows of a text")
