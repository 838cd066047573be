import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from sglp_core.analysis.criteria import LayerTrace
from sglp_core.analysis.criteria.angular import angular, angular_of_runs
from sglp_core.analysis.criteria.block_influence import block_influence
from sglp_core.analysis.criteria.first_order import first_order
from sglp_core.analysis.criteria.grad_norm import grad_norm
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.analysis.tracing import trace
from sglp_core.architectures import CifarResNetConfig, CifarResNetForImageClassification
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.structure.layer_stack import layers_of, measure_stack
from sglp_core.structure.runs import Stage
from sglp_core.tasks import Batch


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
    return trace(LayeredModel(model, "model.layers", "causal_lm"), [batch], SimilarityAccumulator())


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


def test_the_angle_of_a_run_is_between_what_enters_it_and_what_leaves_it(
    model: LlamaForCausalLM, ids: Tensor, traced: LayerTrace
) -> None:
    handed_on: list[Tensor] = []
    handles = [layer.register_forward_hook(lambda _m, _a, out: handed_on.append(out)) for layer in model.model.layers]
    with torch.no_grad():
        model(input_ids=ids)
    for handle in handles:
        handle.remove()
    # The first token of a text does not count.
    hidden = [each[:, 1:].double() for each in (model.model.embed_tokens(ids).detach(), *handed_on)]
    for start in range(5):
        for end in range(start + 1, 5):
            dot = (hidden[start] * hidden[end]).sum(-1)
            angle = (dot / (hidden[start].norm(dim=-1) * hidden[end].norm(dim=-1))).arccos() / torch.pi
            assert angular_of_runs(traced)[start, end] == pytest.approx(angle.mean().item(), rel=1e-4)
    assert [angular_of_runs(traced)[i, i + 1] for i in range(4)] == pytest.approx(angular(traced).tolist(), rel=1e-5)


def test_runs_of_a_staged_network_are_measured_inside_a_stage_and_add_up_across() -> None:
    torch.manual_seed(0)
    config = CifarResNetConfig(depths=[3, 3], hidden_sizes=[4, 8], architectures=["CifarResNetForImageClassification"])
    model = CifarResNetForImageClassification(config).eval()
    stack = measure_stack(config, 1)
    layers = layers_of(model, stack.path)
    images, labels = torch.randn(5, 3, 32, 32), torch.arange(5)
    batch = Batch({"pixel_values": images}, labels)
    found = trace(
        LayeredModel(model, stack.path, "image_classification"), [batch], SimilarityAccumulator(), stages=stack.stages
    )

    calls: list[tuple[Tensor, Tensor]] = []
    handles = [layer.register_forward_hook(lambda _m, args, out: calls.append((args[0], out))) for layer in layers]
    loss = torch.nn.functional.cross_entropy(model(images).logits, labels)
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(loss, [out for _, out in calls])
    skip = found.skip_loss[0]
    # Three layers in the first stage, two behind the border block of the second.
    assert stack.stages == (Stage(0, 3), Stage(3, 5))
    for stage in stack.stages:
        for end in stage.layers:
            for start in range(stage.start, end + 1):
                change = gradients[end] * (calls[end][1] - calls[start][0])
                expected = change.sum((1, 2, 3)).abs().sum().item()
                assert skip[start, end + 1] == pytest.approx(expected, rel=1e-4)
    assert skip[1, 5] == pytest.approx(skip[1, 3] + skip[3, 5])
    cosine = torch.nn.functional.cosine_similarity(calls[3][0].flatten(1), calls[3][1].flatten(1)).mean().item()
    ends = (calls[i][j].flatten(1) for i, j in ((0, 0), (1, 1)))
    angle = torch.nn.functional.cosine_similarity(*ends).arccos().mean().item() / torch.pi
    assert angular_of_runs(found)[0, 2] == pytest.approx(angle, rel=1e-4)
    assert block_influence(found)[3] == pytest.approx(1 - cosine, abs=1e-5)
