"""Token batches to measure on: text the model writes itself, or the user's own.

Windows are cut by the tokenizer's own special-token rules; a model that needs its beginning-of-sequence token gets it
at the start of every window.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

import torch
import transformers
from torch import Tensor

from sglp_core.checkpoints.safetensors_header import within
from sglp_core.data.text_files import draw_texts
from sglp_core.errors import BadCalibration, ModelNotFound
from sglp_core.tasks import IGNORED, Batch, Task

PROBE_ROWS = 2
# Longer than the window of many models that attend locally (ModernBERT: 128), of which a short probe says nothing.
PROBE_TOKENS = 160
MASKED_SHARE = 0.15
UNMASKING_STEPS = 16
# Writing keeps a KV cache but no activations for a backward pass, so more windows fit at once than when measuring.
WRITTEN_AT_ONCE = 4
# What is read of a large text: at least so much, and about twice what the windows hold.
LEAST_TEXT_CHARACTERS = 1 << 23
TEXT_CHARACTERS_A_TOKEN = 8
Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Calibration:
    """Where the calibration data comes from: `self`, or a path or file:// URI.

    Language models take `samples` windows of `sequence_length` tokens of a `.txt`, `.jsonl` or `.parquet` file,
    classifiers of texts `samples` documents of one, each cut at so many tokens and labelled by the model itself; image
    classifiers `samples` images of a folder of class folders, a `.zip` of one, or a `.parquet` file. `batch_size` at a
    time; everything drawn is drawn from `seed`.
    """

    source: str = "self"
    samples: int = 64
    sequence_length: int = 256
    batch_size: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Windows:
    """Token windows `[N, T]` with their attention mask, and the sha256 of both."""

    input_ids: Tensor
    attention_mask: Tensor
    noun: ClassVar[str] = "windows"

    @property
    def digest(self) -> str:
        ids, mask = self.input_ids.numpy().tobytes(), self.attention_mask.numpy().tobytes()
        return hashlib.sha256(ids + mask).hexdigest()

    @property
    def probe(self) -> dict[str, Tensor]:
        """A short input for comparing logits: the starts of two windows that carry no padding there."""
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
    """Up to `count` windows of `length` tokens cut from a user's file, in an order drawn from the seed.

    Of a file with far more text than that only some documents are taken, drawn from the seed (`texts.py`).
    Raises `BadCalibration` for an empty, unreadable or unknown file.
    """
    prefix, suffix = special_tokens(tokenizer)
    body = length - len(prefix) - len(suffix)
    if body < 2:
        raise BadCalibration(f"a window of {length} tokens leaves no room beside the tokenizer's special tokens")
    most = LEAST_TEXT_CHARACTERS + TEXT_CHARACTERS_A_TOKEN * count * length
    documents = draw_texts(local_path(source, roots), most, seed)
    if not documents:
        raise BadCalibration(f"{source} holds no text")
    # One document after another, as language models are trained; the separator is the tokenizer's own end token.
    separator = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    stream: list[int] = []
    for ids in tokenizer(documents, add_special_tokens=False)["input_ids"]:
        stream += ids + separator
    if len(stream) < 8:
        raise BadCalibration(f"{source} holds only {len(stream)} tokens; give at least a few sentences")
    starts = list(range(0, max(len(stream) - body, 0) + 1, body))
    random.Random(seed).shuffle(starts)
    rows = [prefix + stream[start : start + body] + suffix for start in starts[:count]]
    return _padded(rows, length, tokenizer)


def self_written_windows(
    model: Any, tokenizer: Any, task: Task, calibration: Calibration, count: int, seed: int, report: Report
) -> Windows:
    """`count` windows that the model writes itself, from seeded starts, in batches with the KV cache.

    A causal model samples from its own distribution after one random start token; a masked model fills in all-masked
    windows a sixteenth at a time. Reproducible for one seed on one kind of device.
    """
    prefix, suffix = special_tokens(tokenizer)
    body = calibration.sequence_length - len(prefix) - len(suffix)
    if body < 2:
        raise BadCalibration("sequence_length leaves no room beside the tokenizer's special tokens")
    writer = _write_causal if task == "causal_lm" else _write_masked
    allowed = _plain_tokens(model, tokenizer)
    rows: list[Tensor] = []
    report(0, count, "windows")
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for size in _batch_sizes(count, WRITTEN_AT_ONCE * calibration.batch_size):
            rows.append(writer(model, tokenizer, prefix, suffix, body, size, allowed))
            report(sum(len(r) for r in rows), count, "windows")
    ids = torch.cat(rows)
    return Windows(ids, torch.ones_like(ids))


def batches(windows: Windows, task: Task, tokenizer: Any, batch_size: int, seed: int) -> Iterator[Batch]:
    """Windows as model inputs with labels; a masked model gets 15 % of its tokens masked, drawn from the seed."""
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
    """What the tokenizer itself puts before and after one text, found by tokenising a word both ways."""
    plain = tokenizer("word", add_special_tokens=False)["input_ids"]
    full = tokenizer("word")["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start], full[start + len(plain) :]
    return [], []


def local_path(source: str, roots: Sequence[Path] | None) -> Path:
    """A data source given as a path or a `file://` URI; refuses one outside `roots`, and one that is not there."""
    parts = urlsplit(source)
    try:
        return within(Path(unquote(parts.path)) if parts.scheme == "file" else Path(source), roots)
    except ModelNotFound as error:
        raise BadCalibration(str(error)) from error


def _padded(rows: list[list[int]], length: int, tokenizer: Any) -> Windows:
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids = torch.full((len(rows), length), padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return Windows(ids, mask)


def _plain_tokens(model: Any, tokenizer: Any) -> Tensor:
    """The tokens a text is made of: neither special nor beyond what the tokenizer knows."""
    vocabulary = min(len(tokenizer), model.config.get_text_config().vocab_size)
    ids = torch.arange(vocabulary)
    return ids[~torch.isin(ids, torch.tensor(tokenizer.all_special_ids, dtype=torch.long))]


def _batch_sizes(count: int, batch_size: int) -> list[int]:
    return [min(batch_size, count - done) for done in range(0, count, batch_size)]


def _write_causal(
    model: Any, tokenizer: Any, prefix: list[int], suffix: list[int], body: int, size: int, allowed: Tensor
) -> Tensor:
    start = allowed[torch.randint(len(allowed), (size, 1))]
    begin = torch.cat([torch.tensor(prefix, dtype=torch.long).expand(size, -1), start], 1).to(model.device)
    forbidden = sorted(set(range(model.config.get_text_config().vocab_size)) - set(allowed.tolist()))
    written = model.generate(
        input_ids=begin,
        attention_mask=torch.ones_like(begin),
        generation_config=transformers.GenerationConfig(
            do_sample=True,
            top_k=0,
            min_new_tokens=body - 1,
            max_new_tokens=body - 1,
            suppress_tokens=forbidden or None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        ),
    ).cpu()
    return torch.cat([written, torch.tensor(suffix, dtype=torch.long).expand(size, -1)], 1)


@torch.no_grad()
def _write_masked(
    model: Any, tokenizer: Any, prefix: list[int], suffix: list[int], body: int, size: int, allowed: Tensor
) -> Tensor:
    if tokenizer.mask_token_id is None:
        raise BadCalibration(
            "the tokenizer has no mask token, so the model cannot write its own text; give a text file"
        )
    before, after = (torch.tensor(part, dtype=torch.long).expand(size, -1) for part in (prefix, suffix))
    text = torch.full((size, body), tokenizer.mask_token_id, dtype=torch.long)
    for positions in torch.randperm(body).chunk(min(UNMASKING_STEPS, body)):
        window = torch.cat([before, text, after], 1).to(model.device)
        logits = model(input_ids=window, attention_mask=torch.ones_like(window)).logits[:, len(prefix) + positions]
        chances = logits.float().cpu()[..., allowed].softmax(-1)
        text[:, positions] = allowed[torch.multinomial(chances.flatten(0, 1), 1).view(size, -1)]
    return torch.cat([before, text, after], 1)
