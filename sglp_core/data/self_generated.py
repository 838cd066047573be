"""Generate calibration text with the model itself."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer
from transformers.generation.utils import ALL_CACHE_NAMES

from sglp_core.data.token_windows import Windows, special_tokens
from sglp_core.errors import BadCalibration
from sglp_core.execution.available_memory import free_bytes
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.options import Calibration
from sglp_core.progress import Phase, silent_phase

UNMASKING_STEPS = 16
# Of the free memory. The rest is for activations, and for copies of caches that grow by being copied.
CACHE_SHARE = 0.5
# A token that may be drawn has a logit, a probability and a cumulative probability, the last in double precision.
SAMPLING_BYTES = 16


@dataclass(frozen=True)
class EmptyWindows:
    """N windows that are to have the tokenizer's special tokens before and after a text of tokens from `allowed`.

    `uniforms` `[N, body]` has a random number in [0, 1) for every token of the text.
    """

    prefix: list[int]
    suffix: list[int]
    allowed: Tensor
    uniforms: Tensor

    def batches(self, rows: int) -> Iterator["EmptyWindows"]:
        """The windows, `rows` at a time."""
        return (replace(self, uniforms=part) for part in self.uniforms.split(rows))

    def filled(self, text: Tensor) -> Tensor:
        """The tokens of the windows `[N, T]` with this text `[N, body]`."""
        return torch.cat([_repeated(self.prefix, len(text)), text, _repeated(self.suffix, len(text))], 1)

    def start(self) -> Tensor:
        """The tokens before the text and its first one, which is drawn without the model."""
        first = (self.uniforms[:, :1] * len(self.allowed)).long()
        return torch.cat([_repeated(self.prefix, len(first)), self.allowed[first]], 1)

    def draw(self, logits: Tensor, uniforms: Tensor) -> Tensor:
        """Tokens `[N]` out of `allowed` with the probabilities that logits `[N, V]` give them.

        Each is where the sum of the probabilities reaches its random number in `uniforms` `[N]`. So the same numbers
        give the same text on every device and in batches of any size, except where rounding decides.
        """
        sums = logits[:, self.allowed.to(logits.device)].float().softmax(-1).cumsum(-1, dtype=torch.float64)
        reached = torch.searchsorted(sums, uniforms.to(logits.device)[:, None] * sums[:, -1:])
        return self.allowed[reached[:, 0].cpu()]


@torch.no_grad()
def self_generated_windows(
    layered: LayeredModel, tokenizer: Any, calibration: Calibration, count: int, progress: Phase | None = None
) -> Windows:
    """`count` windows of `calibration.sequence_length` tokens that the model generates.

    A causal model samples from its own distribution after one random start token, whatever its generation settings say;
    a masked model fills in fully masked windows, a sixteenth of the positions at a time. The same seed gives the same
    text. Raises `BadCalibration` where no text can be generated.
    """
    prefix, suffix = special_tokens(tokenizer)
    body = calibration.sequence_length - len(prefix) - len(suffix)
    if body < 2:
        raise BadCalibration("sequence_length leaves no room beside the tokenizer's special tokens")
    if layered.task == "masked_lm" and tokenizer.mask_token_id is None:
        raise BadCalibration("the tokenizer has no mask token, so the model cannot generate text; give a text file")
    generator = torch.Generator().manual_seed(calibration.seed)
    uniforms = torch.rand(count, body, generator=generator, dtype=torch.float64)
    empty = EmptyWindows(prefix, suffix, _plain_tokens(layered.model, tokenizer), uniforms)
    progress = progress or silent_phase()
    progress.start(count, "windows")
    if layered.task == "causal_lm":
        ids = _continue_starts(layered, empty, calibration.batch_size, progress)
    else:
        order = torch.randperm(body, generator=generator)
        ids = _fill_masks(layered, empty, tokenizer.mask_token_id, order, calibration.batch_size, progress)
    return Windows(ids, torch.ones_like(ids))


def _plain_tokens(model: Any, tokenizer: Any) -> Tensor:
    """The ids of all tokens that are not special and that both the tokenizer and the model have."""
    vocabulary = min(len(tokenizer), model.config.get_text_config().vocab_size)
    ids = torch.arange(vocabulary)
    return ids[~torch.isin(ids, torch.tensor(tokenizer.all_special_ids, dtype=torch.long))]


def _repeated(tokens: list[int], rows: int) -> Tensor:
    return torch.tensor(tokens, dtype=torch.long).expand(rows, -1)


def _continue_starts(layered: LayeredModel, empty: EmptyWindows, batch_size: int, progress: Phase) -> Tensor:
    body = empty.uniforms.shape[1]
    rows = _rows_at_once(layered, empty, batch_size)
    written: list[Tensor] = []
    for batch in empty.batches(rows):
        ids = batch.start()
        cache: dict[str, Any] = {}
        for number in range(1, body):
            # Without a cache, every token is computed again for the next one.
            new = ids[:, -1:] if cache else ids
            outputs = _call(layered, new, **cache)
            cache = _cache_of(outputs)
            if number == 1:
                _make_room(cache, len(empty.prefix) + body)
            ids = torch.cat([ids, batch.draw(outputs.logits[:, -1], batch.uniforms[:, number])[:, None]], 1)
            progress.update((len(written) * rows * body + len(ids) * (number + 1)) // body)
        written.append(batch.filled(ids[:, len(empty.prefix) :]))
    return torch.cat(written)


def _rows_at_once(layered: LayeredModel, empty: EmptyWindows, batch_size: int) -> int:
    """As many windows as have room for their caches: every step reads all weights, however many windows it is for."""
    window = empty.filled(empty.allowed[:1].expand(1, empty.uniforms.shape[1]))
    cache = _cache_of(_call(layered, window))
    if not cache:
        return batch_size
    row = _bytes_of(cache) + SAMPLING_BYTES * len(empty.allowed)
    return max(1, int(CACHE_SHARE * free_bytes(layered.device) / row))


def _call(layered: LayeredModel, ids: Tensor, **cache: Any) -> Any:
    with layered.whole() as model:
        return model(input_ids=ids.to(layered.device), use_cache=True, **cache)


def _cache_of(outputs: Any) -> dict[str, Any]:
    """The argument that gives the model its cache for the next step; empty where it returns none."""
    return {name: outputs[name] for name in ALL_CACHE_NAMES if outputs.get(name) is not None}


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """The keys and values of a layer, which grow without being copied up to `length` tokens."""

    def __init__(self, started: DynamicLayer, length: int) -> None:
        super().__init__()
        self.lazy_initialization(started.keys, started.values)
        self._rooms = [x.new_empty((*x.shape[:-2], length, x.shape[-1])) for x in (started.keys, started.values)]
        self.keys, self.values = (room[..., :0, :] for room in self._rooms)
        self.update(started.keys, started.values)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        old = self.keys.shape[-2]
        new = old + key_states.shape[-2]
        for room, states in zip(self._rooms, (key_states, value_states), strict=True):
            room[..., old:new, :] = states
        self.keys, self.values = (room[..., :new, :] for room in self._rooms)
        return self.keys, self.values


def _make_room(cache: dict[str, Any], length: int) -> None:
    """Replace the layers of a cache that would be copied for every token; those of other classes stay as they are."""
    for held in cache.values():
        if isinstance(held, Cache):
            held.layers = [
                _RoomyLayer(layer, length) if type(layer) is DynamicLayer and layer.is_initialized else layer
                for layer in held.layers
            ]


def _bytes_of(cache: Any) -> int:
    """The bytes of all tensors in a cache of whatever class a model has for it."""
    if isinstance(cache, Tensor):
        return cache.nbytes
    if isinstance(cache, dict):
        return sum(map(_bytes_of, cache.values()))
    if isinstance(cache, list | tuple):
        return sum(map(_bytes_of, cache))
    return _bytes_of(vars(cache)) if hasattr(cache, "__dict__") and not isinstance(cache, type) else 0


def _fill_masks(
    layered: LayeredModel, empty: EmptyWindows, mask_token: int, order: Tensor, batch_size: int, progress: Phase
) -> Tensor:
    written = []
    for batch in empty.batches(batch_size):
        text = torch.full(batch.uniforms.shape, mask_token, dtype=torch.long)
        for positions in order.chunk(min(UNMASKING_STEPS, len(order))):
            window = batch.filled(text).to(layered.device)
            with layered.whole() as model:
                logits = model(input_ids=window, attention_mask=torch.ones_like(window)).logits
            chosen = logits[:, len(empty.prefix) + positions].flatten(0, 1)
            text[:, positions] = batch.draw(chosen, batch.uniforms[:, positions].flatten()).view(len(text), -1)
        written.append(batch.filled(text))
        progress.advance(len(text))
    return torch.cat(written)
