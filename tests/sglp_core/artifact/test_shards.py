"""Removing layers by copying bytes must give what removing them from a model in memory and saving it gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open

from sglp_core.artifact.shards import copy_kept_layers
from sglp_core.checkpoints.safetensors_header import check_safetensors
from sglp_core.checkpoints.stored_tensors import stack_prefix, stored_tensors
from sglp_core.errors import UnsupportedArchitecture
from sglp_core.execution.loaded_tensors import read_loaded_tensors
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.structure.layer_stack import find_stack

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
CASES = {
    "LlamaForCausalLM": GROUPED,
    "Qwen2ForCausalLM": {**GROUPED, "tie_word_embeddings": True, "use_sliding_window": True, "max_window_layers": 3},
    "Gemma3ForCausalLM": {**GROUPED, "sliding_window": 8},
    "MixtralForCausalLM": {**GROUPED, "num_local_experts": 4},
    "GPT2LMHeadModel": {"vocab_size": 99, "n_embd": 32, "n_layer": 6, "n_head": 4},
    "OPTForCausalLM": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "BertForMaskedLM": SMALL,
    "DistilBertForMaskedLM": {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 6, "n_heads": 4},
    "ViTForImageClassification": {**SMALL, "image_size": 16, "patch_size": 8},
}
REMOVED = (0, 3, 4)


def make(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    stock = getattr(transformers, name)
    return stock(stock.config_class(**CASES[name], **changes)).eval()


def reload(directory: Path) -> Any:
    config = transformers.AutoConfig.from_pretrained(directory)
    stock = getattr(transformers, config.architectures[0])
    model, info = stock.from_pretrained(directory, dtype="auto", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


def require_same_model(found: Any, expected: Any) -> None:
    left, right = found.state_dict(), expected.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype for name in left)
    if expected.main_input_name == "pixel_values":
        probe = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    else:
        probe = {"input_ids": torch.randint(5, 99, (2, 20), generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        assert torch.equal(found(**probe).logits, expected(**probe).logits)


@pytest.mark.parametrize("shard_size", ["1GB", "30KB"], ids=["one file", "sharded"])
@pytest.mark.parametrize("name", CASES)
def test_copied_bytes_are_the_model_pruned_in_memory(name: str, shard_size: str, tmp_path: Path) -> None:
    model = make(name)
    model.save_pretrained(tmp_path / "dense", max_shard_size=shard_size)
    path = find_stack(model)
    kept = copy_kept_layers(
        read_loaded_tensors(tmp_path / "dense"), path, 6, REMOVED, tmp_path / "copied", shard_bytes=50_000
    )
    assert kept == {1: 0, 2: 1, 5: 2} == remove_layers(model, path, REMOVED)
    model.save_pretrained(tmp_path / "saved")

    require_same_model(reload(tmp_path / "copied"), reload(tmp_path / "saved"))
    files = sorted((tmp_path / "copied").glob("*.safetensors"))
    assert len(files) > 1
    for file in files:
        # The header is sound, and the shard is as small as asked for, or one tensor.
        assert len(check_safetensors(file)) <= 2 or file.stat().st_size <= 50_000 + 8 + len(
            str(check_safetensors(file))
        )
    index = json.loads((tmp_path / "copied/model.safetensors.index.json").read_text())
    tensors = stored_tensors(tmp_path / "copied")
    assert index["metadata"]["total_size"] == sum(tensor.size_bytes for tensor in tensors)
    assert index["weight_map"] == {tensor.name: tensor.file.name for tensor in tensors}


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel"])
def test_a_checkpoint_saved_without_its_head_keeps_its_own_names(name: str, tmp_path: Path) -> None:
    model = make(name, tie_word_embeddings=True)
    model.base_model.save_pretrained(tmp_path / "dense")
    config = json.loads((tmp_path / "dense/config.json").read_text())
    (tmp_path / "dense/config.json").write_text(json.dumps(config | {"architectures": [name]}))
    path = find_stack(model)
    copy_kept_layers(read_loaded_tensors(tmp_path / "dense"), path, 6, REMOVED, tmp_path / "copied")
    remove_layers(model, path, REMOVED)
    require_same_model(reload(tmp_path / "copied"), model)
    assert not any(tensor.name.startswith(path) for tensor in stored_tensors(tmp_path / "copied"))


def test_tensors_of_every_type_stay_as_they_are_and_aligned(tmp_path: Path) -> None:
    model = make("LlamaForCausalLM").to(torch.bfloat16)
    model.model.norm.float()
    model.save_pretrained(tmp_path / "dense")
    copy_kept_layers(read_loaded_tensors(tmp_path / "dense"), "model.layers", 6, REMOVED, tmp_path / "copied")
    with (
        safe_open(tmp_path / "dense/model.safetensors", "pt") as dense,
        safe_open(tmp_path / "copied/model.safetensors", "pt") as copied,
    ):
        for name in ("model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"):
            assert torch.equal(copied.get_tensor(name), dense.get_tensor(name))
        assert copied.get_tensor("model.norm.weight").dtype == torch.float32
    for tensor in stored_tensors(tmp_path / "copied"):
        assert tensor.begin % {"F32": 4, "BF16": 2}[tensor.dtype] == 0


def test_the_outermost_numbers_are_the_layers() -> None:
    names = [f"model.layers.{i}.mlp.layers.{j}.weight" for i in range(3) for j in range(3)]
    assert stack_prefix(names, "model.layers", 3) == "model.layers"
    assert stack_prefix([name.removeprefix("model.") for name in names], "model.layers", 3) == "layers"
    assert stack_prefix([f"inner.{name}" for name in names], "model.layers", 3) == "inner.model.layers"
    assert stack_prefix([name.replace("model.layers", "encoder.layer") for name in names], "model.layers", 3) == (
        "encoder.layer"
    )


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["blocks.0.weight", "blocks.1.weight", "blocks.2.weight"], "do not number the 2 layers"),
        (["a.0.weight", "a.1.weight", "b.0.weight", "b.1.weight"], "more than one stack"),
        (["model.layers.0.weight", "model.layers.2.weight"], "do not number the 2 layers"),
        (["text.layers.0.w", "text.layers.1.w", "vision.layers.0.w", "vision.layers.1.w"], "more than one stack"),
    ],
)
def test_names_that_do_not_tell_the_layers_are_refused(names: list[str], reason: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=reason):
        stack_prefix(names, "model.layers", 2)
