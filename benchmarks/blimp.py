"""BLiMP (Warstadt et al. 2020): how often a model gives the grammatical sentence of a pair the higher probability."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

BATCH = 64


def read_pairs(folder: Path, each: int) -> list[tuple[str, str]]:
    """The first pairs of every paradigm: (good, bad)."""
    lines = (line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()[:each])
    return [(pair["sentence_good"], pair["sentence_bad"]) for pair in map(json.loads, lines)]


def accuracy(model: nn.Module, tokenizer: Any, pairs: Sequence[tuple[str, str]]) -> float:
    """The share of pairs whose good sentence has the higher log-probability."""
    scores = torch.cat(list(_log_probabilities(model, tokenizer, [text for pair in pairs for text in pair])))
    good, bad = scores.view(-1, 2).unbind(1)
    return (good > bad).float().mean().item()


@torch.no_grad()
def _log_probabilities(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> Iterator[Tensor]:
    # The end token stands for "nothing before it" where a tokenizer has no token of its own for that.
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    for first in range(0, len(texts), BATCH):
        rows = [torch.tensor([start, *ids]) for ids in tokenizer(texts[first : first + BATCH])["input_ids"]]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=start)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        chances = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        taken = chances.gather(-1, ids[:, 1:, None]).squeeze(-1)
        yield (taken * mask[:, 1:]).sum(1)
