import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from sglp_core.importance import LayerTrace, first_order, grad_norm
from sglp_core.objectives import Batch
from sglp_core.similarity import SimilarityAccumulator
from sglp_core.tracing import trace


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def traced(model: LlamaForCausalLM, ids: Tensor) -> LayerTrace:
    batch = Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)
    return trace(model, model.model.layers, [batch], "causal_lm", SimilarityAccumulator())


def test_grad_norm_equals_plain_autograd_and_leaves_no_gradient_behind(
    model: LlamaForCausalLM, ids: Tensor, traced: LayerTrace
) -> None:
    assert all(parameter.grad is None for parameter in model.parameters())
    model(input_ids=ids, labels=ids).loss.backward()
    for index, layer in enumerate(model.model.layers):
        expected = sum(parameter.grad.square().sum() for parameter in layer.parameters()).sqrt().item()
        assert grad_norm(traced)[index] == pytest.approx(expected, rel=1e-4)
    model.zero_grad()


def test_skipping_a_run_costs_what_autograd_says_to_first_order(
    model: LlamaForCausalLM, ids: Tensor, traced: LayerTrace
) -> None:
    handed_on: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda _m, _a, out: handed_on.append(out)) for layer in model.model.layers]
    loss = model(input_ids=ids, labels=ids).loss
    for handle in handles:
        handle.remove()
    hidden = [model.model.embed_tokens(ids), *handed_on]
    for end, gradient in enumerate(torch.autograd.grad(loss, handed_on), 1):
        for start in range(end):
            expected = (gradient * (hidden[end] - hidden[start])).sum(-1).abs().sum().item()
            assert traced.skip_loss[0, start, end] == pytest.approx(expected, rel=1e-4)
    assert first_order(traced).tolist() == [traced.skip_loss[0, i, i + 1] for i in range(4)]
