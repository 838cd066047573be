import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sglp_core.importance import grad_norm
from sglp_core.objectives import Batch
from sglp_core.similarity import SimilarityAccumulator
from sglp_core.tracing import trace


def test_grad_norm_equals_plain_autograd_and_leaves_no_gradient_behind() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 50, (3, 12))
    batch = Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
    traced = trace(model, model.model.layers, [batch], "causal_lm", SimilarityAccumulator())
    assert all(parameter.grad is None for parameter in model.parameters())

    model(input_ids=ids, labels=ids).loss.backward()
    for index, layer in enumerate(model.model.layers):
        expected = sum(parameter.grad.square().sum() for parameter in layer.parameters()).sqrt().item()
        assert grad_norm(traced)[index] == pytest.approx(expected, rel=1e-4)
