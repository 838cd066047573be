"""Small random models on disk, and the same model in every placement of its weights."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import transformers

from sglp_core.execution.disk_home import DiskHome, empty_model
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.native_types import computing_type
from sglp_core.execution.weights import MemoryHome, OnloadedWeights
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.tasks import Batch, task_of

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
CASES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": GROUPED,
    "Gemma3ForCausalLM": {**GROUPED, "sliding_window": 8},
    "MixtralForCausalLM": {**GROUPED, "num_local_experts": 4},
    "GPT2LMHeadModel": {
        "vocab_size": 99,
        "n_embd": 32,
        "n_layer": 5,
        "n_head": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "OPTForCausalLM": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "BertForMaskedLM": SMALL,
    "DistilBertForMaskedLM": {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 5, "n_heads": 4},
    "ViTForImageClassification": {**SMALL, "image_size": 16, "patch_size": 8},
}


def save(name: str, directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A random model on disk in several shards; returns it as stock loading gives it."""
    torch.manual_seed(0)
    stock = getattr(transformers, name)
    model = stock(stock.config_class(**CASES[name])).to(dtype)
    model.config.dtype = dtype
    # Freshly drawn layers hardly do anything; these do.
    for parameter in layers_of(model, find_stack(model)).parameters():
        parameter.data.mul_(3)
    model.save_pretrained(directory, max_shard_size="40KB")
    return stock.from_pretrained(directory, dtype="auto").eval()


def batches_for(model: Any) -> list[Batch]:
    """Three batches, one of another size and one with padding."""
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        images = torch.randn(16, 3, 16, 16, generator=generator, dtype=torch.float32).to(model.dtype)
        return [Batch({"pixel_values": part}, torch.arange(len(part)) % 2) for part in images.split(6)]
    ids = torch.randint(5, 99, (5, 16), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    parts = zip(ids.split(2), mask.split(2), strict=True)
    return [Batch({"input_ids": i, "attention_mask": m}, i.masked_fill(m == 0, -100)) for i, m in parts]


def resident(model: Any) -> LayeredModel:
    """The model on the CPU as it is, but where this processor would emulate its type, a copy in the one computed in."""
    dtype = computing_type(model.dtype, torch.device("cpu"))
    whole = model if dtype == model.dtype else deepcopy(model).to(dtype)
    return LayeredModel(whole, find_stack(model), task_of(type(model), model.config))


def from_memory(model: Any) -> LayeredModel:
    """The model in memory, each layer brought to the CPU by itself."""
    layers = layers_of(model, find_stack(model))
    weights = OnloadedWeights(model, layers, MemoryHome(model, torch.device("cpu")), torch.device("cpu"))
    return LayeredModel(model, find_stack(model), task_of(type(model), model.config), home=weights)


def from_disk(directory: Path) -> LayeredModel:
    """The model of a directory, its weights on disk."""
    model, path = empty_model(directory)
    weights = OnloadedWeights(model, layers_of(model, path), DiskHome(directory, model, path), torch.device("cpu"))
    return LayeredModel(model, path, task_of(type(model), model.config), home=weights, scratch=directory.parent)
