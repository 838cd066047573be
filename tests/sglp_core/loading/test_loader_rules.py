"""What a checkpoint's class loads does not depend on where the weights lie, and neither does what is written."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from sglp_core import Calibration, Evaluation, Method, Target, compress
from sglp_core.checkpoints.stored_tensors import stored_tensors
from sglp_core.errors import UnsafeFormat
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Memory, Options
from sglp_core.reporting.markdown import report_page
from sglp_core.reporting.report import CompressReport
from sglp_core.run_context import RunContext
from sglp_core.structure.config_renumbering import prediction_layers
from tests.worker.tiny_model import write_text, write_tiny_model

PLACEMENTS: tuple[Memory, ...] = ("in_memory", "streaming")
SMALL = {"vocab_size": 30, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 2}
CLASSES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": GROUPED,
    "GPT2LMHeadModel": {"vocab_size": 30, "n_embd": 64, "n_layer": 4, "n_head": 4},
    "BertForMaskedLM": SMALL,
    "DeepseekV3ForCausalLM": {
        **SMALL,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "pad_token_id": 2,
    },
    "Gemma3ForConditionalGeneration": {
        "text_config": {**GROUPED, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2},
        # As many layers as the language model, and fewer positions than the windows of the job have tokens.
        "vision_config": {**SMALL, "image_size": 16, "patch_size": 8},
        "mm_tokens_per_image": 4,
        "image_token_index": 29,
        "boi_token_index": 28,
        "eoi_token_index": 27,
    },
}
Tensors = dict[str, Tensor]


def write_model(directory: Path, name: str, edit: Callable[[Tensors, dict[str, Any]], None]) -> Path:
    """A random model of a class, with a tokenizer, after `edit` has changed its tensors and configuration in place."""
    write_tiny_model(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"})
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    stock = getattr(transformers, name)
    stock(stock.config_class(**CLASSES[name])).save_pretrained(directory)
    weights, config_file = directory / "model.safetensors", directory / "config.json"
    tensors, config = load_file(weights), json.loads(config_file.read_text())
    edit(tensors, config)
    save_file(tensors, weights, {"format": "pt"})
    config_file.write_text(json.dumps(config))
    return directory


def options(directory: Path) -> Options:
    text = write_text(directory / "text.txt")
    return Options(
        method=Method(repair="none"),
        calibration=Calibration(str(text), samples=8, sequence_length=16, batch_size=4),
        evaluation=Evaluation(samples=4, controls=False),
    )


def run(model: Path, output: Path, memory: Memory) -> CompressReport:
    context = RunContext(cache=output.with_name(f"{output.name}-cache"), memory=memory)
    return compress(model.as_uri(), Target("layers", 0.25), output, options(model), context)


# What is stored beside what the class loads.
def masks_of_old_versions(tensors: Tensors, _config: dict[str, Any]) -> None:
    for layer in range(4):
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()


def heads_of_pre_training(tensors: Tensors, _config: dict[str, Any]) -> None:
    tensors["bert.pooler.dense.weight"] = torch.zeros(64, 64)
    tensors["cls.seq_relationship.weight"] = torch.zeros(2, 64)


def two_more_layers(tensors: Tensors, _config: dict[str, Any]) -> None:
    for name, tensor in list(tensors.items()):
        if name.startswith("model.layers.0."):
            tensors[name.replace(".0.", ".4.", 1)] = tensor.clone()
            tensors[name.replace(".0.", ".5.", 1)] = tensor.clone()


def a_layer_that_predicts_further_tokens(tensors: Tensors, config: dict[str, Any]) -> None:
    config["num_nextn_predict_layers"] = 1
    for name, tensor in list(tensors.items()):
        if name.startswith("model.layers.3."):
            tensors[name.replace(".3.", ".4.", 1)] = tensor.clone()
    tensors["model.layers.4.eh_proj.weight"] = torch.zeros(64, 128)
    for part in ("enorm", "hnorm", "shared_head.norm"):
        tensors[f"model.layers.4.{part}.weight"] = torch.ones(64)


# What is loaded in a certain way.
def another_head_than_the_embedding(tensors: Tensors, config: dict[str, Any]) -> None:
    config["tie_word_embeddings"] = True
    assert not torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])


def a_head_that_is_the_embedding(tensors: Tensors, config: dict[str, Any]) -> None:
    config["tie_word_embeddings"] = True
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def two_types_of_which_none_is_stated(tensors: Tensors, config: dict[str, Any]) -> None:
    config.pop("dtype")
    for name, tensor in tensors.items():
        tensors[name] = tensor.bfloat16() if tensor.ndim > 1 else tensor


def as_saved(_tensors: Tensors, _config: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Case:
    """A model, the number of its stored tensors that are ignored, the type that it is loaded in, and what is noted."""

    name: str
    edit: Callable[[Tensors, dict[str, Any]], None]
    ignored: int = 0
    dtype: torch.dtype = torch.float32
    notes: tuple[str, ...] = ()


CASES = [
    Case("GPT2LMHeadModel", masks_of_old_versions, ignored=8),
    Case("BertForMaskedLM", heads_of_pre_training, ignored=2),
    Case("LlamaForCausalLM", two_more_layers, ignored=18, notes=("layers_beyond_ignored",)),
    Case("DeepseekV3ForCausalLM", a_layer_that_predicts_further_tokens, ignored=30, notes=("prediction_layers_off",)),
    Case("LlamaForCausalLM", another_head_than_the_embedding),
    Case("LlamaForCausalLM", a_head_that_is_the_embedding),
    Case("LlamaForCausalLM", two_types_of_which_none_is_stated, dtype=torch.bfloat16),
    # The windows of the job are longer than its sliding window.
    Case("Gemma3ForConditionalGeneration", as_saved),
]


@pytest.mark.parametrize("case", CASES, ids=[case.edit.__name__ for case in CASES])
def test_a_job_loads_and_writes_the_same_in_both_placements(case: Case, tmp_path: Path) -> None:
    model = write_model(tmp_path / "dense", case.name, case.edit)
    reports = {memory: run(model, tmp_path / memory, memory) for memory in PLACEMENTS}
    plans, ignored, tables = (
        [getattr(report, section) for report in reports.values()] for section in ("plan", "model", "table")
    )
    assert plans[0].removed_layers == plans[1].removed_layers
    assert ignored[0] == ignored[1]
    assert ignored[0].ignored_tensors.count == case.ignored
    for report in reports.values():
        assert report.verification.passed
        assert tuple(note.code for note in report.model.notes) == case.notes
        page = report_page(report)
        assert all(note.message in page for note in report.model.notes)
    assert {row.metric for row in tables[0][:3]} == {"layers", "parameters", "flops"}
    assert tables[0][:3] == tables[1][:3]

    stock = getattr(transformers, case.name)
    loaded = []
    for memory in PLACEMENTS:
        again, info = stock.from_pretrained(tmp_path / memory / "model", dtype="auto", output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        assert not prediction_layers(again.config.get_text_config())
        loaded.append(again.state_dict())
    assert loaded[0].keys() == loaded[1].keys()
    for name, tensor in loaded[0].items():
        assert tensor.dtype == loaded[1][name].dtype == case.dtype
        assert torch.equal(tensor, loaded[1][name]), name
    names = [{tensor.name for tensor in stored_tensors(tmp_path / memory / "model")} for memory in PLACEMENTS]
    assert names[0] == names[1]
    page = (tmp_path / "streaming/report.md").read_text()
    assert ("has no place for" in page) == (case.ignored > 0)


def without_a_norm(tensors: Tensors, _config: dict[str, Any]) -> None:
    del tensors["model.layers.2.input_layernorm.weight"]


def with_a_norm_of_another_size(tensors: Tensors, _config: dict[str, Any]) -> None:
    tensors["model.layers.2.input_layernorm.weight"] = torch.ones(63)


@pytest.mark.parametrize("memory", PLACEMENTS)
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without_a_norm, "hold no model.layers.2.input_layernorm.weight"),
        (with_a_norm_of_another_size, r"has the shape \[63\], but by config.json it should have the shape \[64\]"),
    ],
)
def test_what_does_not_fit_the_class_is_refused_when_the_model_is_opened(
    edit: Callable[[Tensors, dict[str, Any]], None], message: str, memory: Memory, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "dense", "LlamaForCausalLM", edit)
    with pytest.raises(UnsafeFormat, match=message):
        load_model(model.as_uri(), options(tmp_path), RunContext(cache=tmp_path / "cache", memory=memory))
