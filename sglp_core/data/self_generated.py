"""Calibration text that the model writes itself."""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

from sglp_core.data.token_windows import Windows, special_tokens
from sglp_core.errors import BadCalibration
from sglp_core.options import Calibration
from sglp_core.tasks import Task

UNMASKING_STEPS = 16
# Writing keeps a KV cache but no activations for a backward pass, so more windows fit at once than when measuring.
WRITTEN_AT_ONCE = 4
Report = Callable[[int, int, str], None]


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
