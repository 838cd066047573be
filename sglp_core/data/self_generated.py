"""Generate calibration text with the model itself."""

from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

from sglp_core.data.token_windows import Windows, special_tokens
from sglp_core.errors import BadCalibration
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.options import Calibration
from sglp_core.progress import Phase, silent_phase

UNMASKING_STEPS = 16
# Generation keeps a KV cache but no activations for a backward pass, so more windows fit than in the analysis.
BATCHES_AT_ONCE = 4


@dataclass(frozen=True)
class WindowShape:
    """A window: the tokenizer's special tokens before and after a text of `body` tokens drawn from `allowed`."""

    prefix: list[int]
    suffix: list[int]
    body: int
    allowed: Tensor


def self_generated_windows(
    layered: LayeredModel, tokenizer: Any, calibration: Calibration, count: int, progress: Phase | None = None
) -> Windows:
    """`count` windows of `calibration.sequence_length` tokens that the model generates.

    A causal model samples from its own distribution after one random start token; a masked model fills in fully masked
    windows, a sixteenth of the positions at a time. The same seed gives the same text on the same type of device.
    Raises `BadCalibration` where no text can be generated.
    """
    model = layered.model
    prefix, suffix = special_tokens(tokenizer)
    body = calibration.sequence_length - len(prefix) - len(suffix)
    if body < 2:
        raise BadCalibration("sequence_length leaves no room beside the tokenizer's special tokens")
    shape = WindowShape(prefix, suffix, body, _plain_tokens(model, tokenizer))
    generate = _generate_causal if layered.task == "causal_lm" else _generate_masked
    rows: list[Tensor] = []
    progress = progress or silent_phase()
    progress.start(count, "windows")
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(calibration.seed)
        for size in _batch_sizes(count, BATCHES_AT_ONCE * calibration.batch_size):
            rows.append(generate(model, tokenizer, shape, size))
            progress.advance(size)
    ids = torch.cat(rows)
    return Windows(ids, torch.ones_like(ids))


def _plain_tokens(model: Any, tokenizer: Any) -> Tensor:
    """The ids of all tokens that are not special and that both the tokenizer and the model have."""
    vocabulary = min(len(tokenizer), model.config.get_text_config().vocab_size)
    ids = torch.arange(vocabulary)
    return ids[~torch.isin(ids, torch.tensor(tokenizer.all_special_ids, dtype=torch.long))]


def _batch_sizes(count: int, batch_size: int) -> list[int]:
    return [min(batch_size, count - done) for done in range(0, count, batch_size)]


def _generate_causal(model: Any, tokenizer: Any, shape: WindowShape, size: int) -> Tensor:
    allowed = shape.allowed
    start = allowed[torch.randint(len(allowed), (size, 1))]
    begin = torch.cat([torch.tensor(shape.prefix, dtype=torch.long).expand(size, -1), start], 1).to(model.device)
    forbidden = sorted(set(range(model.config.get_text_config().vocab_size)) - set(allowed.tolist()))
    generated = model.generate(
        input_ids=begin,
        attention_mask=torch.ones_like(begin),
        generation_config=transformers.GenerationConfig(
            do_sample=True,
            top_k=0,
            min_new_tokens=shape.body - 1,
            max_new_tokens=shape.body - 1,
            suppress_tokens=forbidden or None,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        ),
    ).cpu()
    return torch.cat([generated, torch.tensor(shape.suffix, dtype=torch.long).expand(size, -1)], 1)


@torch.no_grad()
def _generate_masked(model: Any, tokenizer: Any, shape: WindowShape, size: int) -> Tensor:
    if tokenizer.mask_token_id is None:
        raise BadCalibration("the tokenizer has no mask token, so the model cannot generate text; give a text file")
    before, after = (torch.tensor(part, dtype=torch.long).expand(size, -1) for part in (shape.prefix, shape.suffix))
    text = torch.full((size, shape.body), tokenizer.mask_token_id, dtype=torch.long)
    for positions in torch.randperm(shape.body).chunk(min(UNMASKING_STEPS, shape.body)):
        window = torch.cat([before, text, after], 1).to(model.device)
        logits = model(input_ids=window, attention_mask=torch.ones_like(window)).logits
        probabilities = logits[:, len(shape.prefix) + positions].float().cpu()[..., shape.allowed].softmax(-1)
        text[:, positions] = shape.allowed[torch.multinomial(probabilities.flatten(0, 1), 1).view(size, -1)]
    return torch.cat([before, text, after], 1)
