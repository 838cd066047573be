"""Small models of every tested class, by the settings of their configurations."""

from typing import Any

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 8, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
IMAGES = {**SMALL, "image_size": 16, "patch_size": 8}
WINDOWED = {**GROUPED, "sliding_window": 8}
# (2, 1, 4, 2) blocks: some stages have no layer to remove, and ratios of stages, depths and layers are all different.
STAGED = {"depths": [3, 1, 4, 2], "hidden_sizes": [8, 16, 24, 32], "num_labels": 5}
CONVOLUTIONS = {**STAGED, "embedding_size": 8}
HIERARCHY = {"depths": [3, 2, 2, 2], "hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 2, 2]}
SWIN = {"depths": [2, 6], "num_heads": [2, 2], "embed_dim": 16, "window_size": 4, "image_size": 64, "patch_size": 4}
CASES = {
    "LlamaForCausalLM": GROUPED,
    "MistralForCausalLM": WINDOWED,
    "Qwen2ForCausalLM": {**WINDOWED, "use_sliding_window": True, "max_window_layers": 4},
    "Qwen3ForCausalLM": GROUPED,
    "Gemma2ForCausalLM": WINDOWED,
    "Gemma3ForCausalLM": WINDOWED,
    "Phi3ForCausalLM": GROUPED,
    "GPT2LMHeadModel": {"vocab_size": 99, "n_embd": 32, "n_layer": 8, "n_head": 4},
    "OPTForCausalLM": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "GPTNeoXForCausalLM": SMALL,
    "FalconForCausalLM": SMALL,
    "BertForMaskedLM": SMALL,
    "RobertaForMaskedLM": SMALL,
    "DistilBertForMaskedLM": {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 8, "n_heads": 4},
    "ViTForImageClassification": IMAGES,
    "DeiTForImageClassification": IMAGES,
}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
STATES = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}


def types(letters: str) -> list[str]:
    words = {"l": "linear_attention", "f": "full_attention", "s": "sliding_attention", "c": "conv", "m": "mamba"}
    return [words[letter] for letter in letters]


# Layers of several kinds, said layer by layer in many ways: lists, lists of numbers, boundaries, numbers by layer.
HYBRIDS: dict[str, dict[str, Any]] = {
    "Qwen3NextForCausalLM": {**GROUPED, **EXPERTS, **LINEAR, "shared_expert_intermediate_size": 16},
    "Qwen3MoeForCausalLM": {**GROUPED, **EXPERTS, "mlp_only_layers": [0, 3]},
    "GptOssForCausalLM": {**WINDOWED, **EXPERTS, "layer_types": types("sfsfsfsf")},
    "Llama4ForCausalLM": {**GROUPED, **EXPERTS, "intermediate_size_mlp": 48, "interleave_moe_layer_step": 2},
    "DeepseekV3ForCausalLM": {
        **{**GROUPED, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1},
        **{"topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 2, "q_lora_rank": 8},
        **{"kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    },
    "Lfm2ForCausalLM": {**GROUPED, "layer_types": types("ccfccfcc")},
    "Lfm2MoeForCausalLM": {**GROUPED, **EXPERTS, "layer_types": types("ccfccfcc"), "num_dense_layers": 2},
    "FalconH1ForCausalLM": {**GROUPED, **STATES, "mamba_d_ssm": 64},
    "BambaForCausalLM": {**GROUPED, **STATES, "attn_layer_indices": [2, 5, 7]},
    "GraniteMoeHybridForCausalLM": {
        **{**GROUPED, **EXPERTS, **STATES, "layer_types": types("mmfmmfmm"), "shared_intermediate_size": 48},
    },
    "Gemma4ForCausalLM": {
        **{**WINDOWED, "layer_types": types("ssfssfsf"), "hidden_size_per_layer_input": 0, "global_head_dim": 16},
    },
    "ModernBertForMaskedLM": {**SMALL, "pad_token_id": 0, "local_attention": 8, "global_attn_every_n_layers": 3},
    "DebertaV2ForMaskedLM": SMALL,
    "Dinov2ForImageClassification": IMAGES,
    "BeitForImageClassification": IMAGES,
}
# Other heads on families from above; the class says too little of the head.
SCORED, LABELLED = {"num_labels": 1}, {"num_labels": 3}
HEADS: list[tuple[str, dict[str, Any]]] = [
    ("BertForTokenClassification", {**SMALL, **LABELLED}),
    ("RobertaForTokenClassification", {**SMALL, **LABELLED}),
    ("DistilBertForTokenClassification", {**CASES["DistilBertForMaskedLM"], **LABELLED}),
    ("ElectraForTokenClassification", {**SMALL, **LABELLED}),
    ("ModernBertForTokenClassification", {**HYBRIDS["ModernBertForMaskedLM"], **LABELLED}),
    ("DebertaV2ForTokenClassification", {**SMALL, **LABELLED}),
    ("LlamaForTokenClassification", {**GROUPED, **LABELLED}),
    ("BertForQuestionAnswering", SMALL),
    ("RobertaForQuestionAnswering", SMALL),
    ("LlamaForQuestionAnswering", GROUPED),
    ("BertForSequenceClassification", {**SMALL, **LABELLED}),
    ("BertForSequenceClassification", {**SMALL, **LABELLED, "problem_type": "multi_label_classification"}),
    ("LlamaForSequenceClassification", {**GROUPED, **SCORED}),
    ("Qwen2ForSequenceClassification", {**GROUPED, **SCORED}),
    ("Gemma2ForSequenceClassification", {**WINDOWED, **SCORED}),
]
STAGED_CASES: dict[str, tuple[dict[str, Any], tuple[tuple[int, ...], ...]]] = {
    "ResNetForImageClassification": ({**CONVOLUTIONS, "layer_type": "basic"}, ((0, 4), (2, 3))),
    "RegNetForImageClassification": ({**CONVOLUTIONS, "groups_width": 8}, ((0, 4), (2, 3))),
    "ConvNextForImageClassification": ({**STAGED, "layer_scale_init_value": 1.0}, ((0, 6), (4, 9))),
    "ConvNextV2ForImageClassification": (STAGED, ((0, 6), (4, 9))),
    "BitForImageClassification": ({**CONVOLUTIONS, "num_groups": 4}, ((0, 4), (2, 3))),
    "CifarResNetForImageClassification": ({"depths": [3, 3, 4], "hidden_sizes": [8, 16, 32]}, ((0, 4), (1, 6))),
    "CifarVGGForImageClassification": ({"depths": [2, 3, 4], "hidden_sizes": [8, 16, 32]}, ((1, 3), (4, 5))),
    "SegformerForImageClassification": ({**HIERARCHY, "decoder_hidden_size": 16}, ((0,), (1, 6))),
    "PvtForImageClassification": ({**HIERARCHY, "image_size": 64}, ((0,), (1, 6))),
    "PoolFormerForImageClassification": ({**STAGED, "layer_scale_init_value": 1.0}, ((0, 6), (4, 9))),
    "FocalNetForImageClassification": ({"depths": [3, 2, 2, 2], "embed_dim": 8, "image_size": 64}, ((0,), (1, 6))),
    # Blocks alternate in form: two neighbours go together, or what ends a stage.
    "Swinv2ForImageClassification": (SWIN, ((2, 3), (5, 6), (1, 7))),
    "SwinForImageClassification": (SWIN, ((2, 3), (5, 6), (1, 7), (4, 5, 6, 7))),
}
