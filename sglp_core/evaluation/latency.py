"""Latency of a loaded model at batch 1: one pass over an input, and decoding of one more token."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

REPEATS = 5
DECODED_TOKENS = 16


@dataclass(frozen=True)
class Latency:
    """Medians of five runs, in seconds; `decode_seconds` is one token (None without generation)."""

    prefill_seconds: float
    decode_seconds: float | None


@torch.no_grad()
def measure_latency(model: Any, inputs: Mapping[str, Tensor], decodes: bool) -> Latency:
    """Time a model on `inputs` of batch 1, and on greedy decoding after their first token."""

    device = next(iter(inputs.values())).device

    def wait() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    def prefill() -> None:
        model(**inputs)
        wait()

    prefill_seconds = _median_seconds(prefill)
    if not decodes:
        return Latency(prefill_seconds, None)
    settings = transformers.GenerationConfig(
        do_sample=False, min_new_tokens=DECODED_TOKENS, max_new_tokens=DECODED_TOKENS, pad_token_id=0
    )
    first = inputs["input_ids"][:, :1]
    start = {"input_ids": first, "attention_mask": torch.ones_like(first)}

    def decode() -> None:
        model.generate(**start, generation_config=settings)
        wait()

    return Latency(prefill_seconds, _median_seconds(decode) / DECODED_TOKENS)


def _median_seconds(action: Callable[[], object]) -> float:
    action()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
