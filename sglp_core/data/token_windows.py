"""Cut text into token windows of one length, and make batches with labels of them.

Every window has the special tokens that the tokenizer adds to a text, such as the beginning-of-sequence token.
"""

import hashlib
import random
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from sglp_core.checkpoints.model_folder import local_path
from sglp_core.data.text_files import draw_texts
from sglp_core.errors import BadCalibration
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
WORD_START = re.compile(r"(?<=\S) (?=\S)")


@dataclass(frozen=True)
class Windows:
    """Token windows `[N, T]` with their attention mask `[N, T]`."""

    input_ids: Tensor
    attention_mask: Tensor
    noun: ClassVar[str] = "windows"

    @property
    def digest(self) -> str:
        ids, mask = self.input_ids.numpy().tobytes(), self.attention_mask.numpy().tobytes()
        return hashlib.sha256(ids + mask).hexdigest()

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


def text_windows(
    source: str, tokenizer: Any, count: int, length: int, seed: int, roots: Sequence[Path] | None = None
) -> Windows:
    """Up to `count` windows of `length` tokens cut from a user's file, in an order drawn at random with the seed.

    Of a file with far more text than that, only a random sample of its documents is used (`text_files.py`). Raises
    `BadCalibration` for a file that is empty, unreadable or of an unknown format.
    """
    prefix, suffix = special_tokens(tokenizer)
    body = length - len(prefix) - len(suffix)
    if body < 2:
        raise BadCalibration(f"a window of {length} tokens leaves no room beside the tokenizer's special tokens")
    most = LEAST_TEXT_CHARACTERS + TEXT_CHARACTERS_A_TOKEN * count * length
    documents = draw_texts(local_path(source, roots), most, seed)
    if not documents:
        raise BadCalibration(f"{source} holds no text")
    # Documents are joined with the end token of the tokenizer between them, as in the training of language models.
    separator = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    stream = array("i")
    for document in documents:
        # A tokenizer keeps hundreds of bytes a character until a call ends.
        for part in _parts(document):
            stream.extend(tokenizer(part, add_special_tokens=False)["input_ids"])
        stream.extend(separator)
    if len(stream) < 8:
        raise BadCalibration(f"{source} holds only {len(stream)} tokens; give at least a few sentences")
    starts = list(range(0, max(len(stream) - body, 0) + 1, body))
    random.Random(seed).shuffle(starts)
    rows = [prefix + stream[start : start + body].tolist() + suffix for start in starts[:count]]
    return _padded(rows, length, tokenizer)


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


def _padded(rows: list[list[int]], length: int, tokenizer: Any) -> Windows:
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids = torch.full((len(rows), length), padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return Windows(ids, mask)
