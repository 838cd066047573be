"""Small random models whose layers matter, and token batches for them."""

from typing import Any

import torch
import transformers

from sglp_core.tasks import Batch

SMALL = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}


def build(name: str = "LlamaForCausalLM", **changes: Any) -> Any:
    torch.manual_seed(0)
    stock = getattr(transformers, name)
    model = stock(stock.config_class(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


def batches(count: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(5, 60, (4, 16), generator=generator) for _ in range(count)]
    return [Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids) for ids in drawn]
