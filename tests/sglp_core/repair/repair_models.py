"""Random models of many families whose layers are far from idle, for what is folded into their weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from sglp_core.execution.variant import Variant
from sglp_core.execution.variants import Walk
from sglp_core.repair.compensate import Compensation
from sglp_core.repair.contract import Candidate
from sglp_core.repair.cut import Cut
from sglp_core.repair.residual_stream import CutInWalk, CutStreams
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.layer_calls import layer_output
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
# Class, configuration, the writes of a layer (last first), the form and the offset of the last one.
PRE_NORM = {
    "llama": ("LlamaForCausalLM", {**GROUPED, "rms_norm_eps": 1e-12}, ["mlp.down_proj", "self_attn.o_proj"]),
    "llama tied": (
        "LlamaForCausalLM",
        {**GROUPED, "rms_norm_eps": 1e-12, "tie_word_embeddings": True, "mlp_bias": True},
        ["mlp.down_proj", "self_attn.o_proj"],
    ),
    "qwen2": ("Qwen2ForCausalLM", {**GROUPED, "rms_norm_eps": 1e-12}, ["mlp.down_proj", "self_attn.o_proj"]),
    "phi3": ("Phi3ForCausalLM", {**GROUPED, "rms_norm_eps": 1e-12}, ["mlp.down_proj", "self_attn.o_proj"]),
    "granite": (
        "GraniteForCausalLM",
        {**GROUPED, "rms_norm_eps": 1e-12, "residual_multiplier": 0.3},
        ["mlp.down_proj", "self_attn.o_proj"],
    ),
    "gemma2": (
        "Gemma2ForCausalLM",
        {**GROUPED, "rms_norm_eps": 1e-12},
        ["post_feedforward_layernorm", "post_attention_layernorm"],
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {**GROUPED, "rms_norm_eps": 1e-12},
        ["post_feedforward_layernorm", "post_attention_layernorm"],
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 6, "n_head": 4, "layer_norm_epsilon": 1e-12},
        ["mlp.c_proj", "attn.c_proj"],
    ),
    "opt": ("OPTForCausalLM", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}, ["fc2", "self_attn.out_proj"]),
    "bloom": (
        "BloomForCausalLM",
        {"vocab_size": 99, "hidden_size": 32, "n_layer": 6, "n_head": 4, "layer_norm_epsilon": 1e-12},
        ["mlp.dense_4h_to_h", "self_attention.dense"],
    ),
    "falcon": (
        "FalconForCausalLM",
        {**SMALL, "layer_norm_epsilon": 1e-12},
        ["mlp.dense_4h_to_h", "self_attention.dense"],
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", {**SMALL, "layer_norm_eps": 1e-12}, ["mlp.dense_4h_to_h", "attention.dense"]),
}
POST_NORM = {
    "bert": ("BertForMaskedLM", SMALL, "output.LayerNorm"),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 6, "n_heads": 4},
        "output_layer_norm",
    ),
    "opt-350m": (
        "OPTForCausalLM",
        {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
        "final_layer_norm",
    ),
}
ROUTED = {**GROUPED, "rms_norm_eps": 1e-12, "moe_intermediate_size": 24, "num_experts_per_tok": 2}
# Layers with a mixture of experts, some of them in one stack with dense layers.
MIXTURES = {
    "mixtral": ("MixtralForCausalLM", {**ROUTED, "num_local_experts": 4}),
    "qwen3-moe": ("Qwen3MoeForCausalLM", {**ROUTED, "num_experts": 4, "decoder_sparse_step": 2}),
    "qwen2-moe": ("Qwen2MoeForCausalLM", {**ROUTED, "num_experts": 4, "shared_expert_intermediate_size": 24}),
    "deepseek-v3": (
        "DeepseekV3ForCausalLM",
        {
            **ROUTED,
            **{"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 2, "topk_group": 2, "first_k_dense_replace": 1},
            **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
            "num_key_value_heads": 4,
        },
    ),
    "gpt-oss": ("GptOssForCausalLM", {**ROUTED, "num_local_experts": 4}),
}
FAMILIES = {name: case[:2] for name, case in (PRE_NORM | POST_NORM).items()}


def build(name: str) -> Any:
    """A random model in float64, its layers far from idle and with norms and biases that are not trivial."""
    torch.manual_seed(0)
    class_name, config = (FAMILIES | MIXTURES)[name]
    stock = getattr(transformers, class_name)
    model = stock(stock.config_class(**config)).double().eval()
    if name in MIXTURES:
        # The other kernels of experts know no float64.
        model.set_experts_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, dtype=torch.float64)
            small = parameter.ndim == 1 or not parameter.any()
            parameter.add_(noise * (0.3 if small else 3 * parameter.std()))
    return model


def batches(count: int, name: str = "") -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    drawn = []
    for _ in range(count):
        ids = torch.randint(5, 99, (4, 24), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 18:] = 0
        drawn.append(Batch({"input_ids": ids, "attention_mask": mask}, ids.masked_fill(mask == 0, -100)))
    return drawn


def logits(model: Any, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(**batch.inputs).logits


def apart(measured: Tensor, expected: Tensor) -> float:
    return float((measured - expected).abs().max() / expected.abs().max())


def cut_at(finder: WriteFinder, batches: Sequence[Batch], removed: tuple[int, ...], run: Run) -> Cut:
    """The cut at that run of the removed layers, with nothing repaired before it."""
    assert finder.layered.layerwise is not None
    walk = Walk(finder.layered, finder.layered.layerwise, batches)
    dense, pruned = walk.track(Variant()), walk.track(Variant(removed))
    before = None
    for index in range(run.stop):
        before = pruned.states if index == run.start - 1 else before
        walk.advance(index, [dense, pruned])
    return Cut(finder, removed, CutInWalk(walk, run, pruned, before, dense.states), 1.0)


def compensation(cut: Cut, alpha: float) -> Candidate:
    """What `compensate` makes of a stream that grows by `alpha` in the removed layers."""
    fit = Compensation(cut)
    pruned = torch.randn(10, 32, dtype=torch.float64)
    nowhere = torch.zeros(10, dtype=torch.bool)
    fit.add(batches(1)[0], CutStreams(alpha * pruned, pruned, None, None, nowhere), held_out=False)
    return fit.build(1.0)


@contextmanager
def scaled(layer: nn.Module, alpha: float) -> Iterator[None]:
    """The output of the layer times `alpha`."""

    def scale(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = alpha * layer_output(output)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = layer.register_forward_hook(scale)
    try:
        yield
    finally:
        handle.remove()
