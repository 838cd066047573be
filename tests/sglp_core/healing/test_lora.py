"""LoRA healing trains what peft would on the model with its layers really removed, and leaves no trace of itself."""

import copy
from collections.abc import Mapping
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.execution.weight_changes import frozen
from sglp_core.healing.heal import Training, heal, require_trainable
from sglp_core.healing.lora import RANK, Adapters, linear_layers
from sglp_core.options import Healing
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.tasks import Batch, logits_of, loss_of, rebatch, split
from tests.sglp_core.small_models import batches, build

GPT2 = {"n_layer": 6, "n_embd": 32, "n_head": 4}
LINEAR = {
    "LlamaForCausalLM": [*(f"self_attn.{p}_proj" for p in "qkvo"), *(f"mlp.{p}_proj" for p in ("gate", "up", "down"))],
    "GPT2LMHeadModel": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
}
MODELS = [("LlamaForCausalLM", {}), ("GPT2LMHeadModel", GPT2)]


def everything_about(model: Any) -> dict[str, Any]:
    """Its modules, what each of them holds, and the flags of its parameters."""
    return {
        name: (module, type(module), set(vars(module)), [(n, p, p.requires_grad) for n, p in module.named_parameters()])
        for name, module in model.named_modules()
    }


@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_every_linear_layer_that_stays_has_an_adapter_and_nothing_else(name: str, changes: dict[str, Any]) -> None:
    model = build(name, **changes)
    path = find_stack(model)
    expected = {f"{path}.{layer}.{linear}" for layer in (0, 1, 4, 5) for linear in LINEAR[name]}
    assert set(linear_layers(LayeredModel(model, path, "causal_lm"), (2, 3))) == expected
    healed = heal(
        LayeredModel(model, path, "causal_lm"), batches(), Variant((2, 3), {}), Training(Healing(1, trained="lora"))
    )
    assert set(healed.trained_tensors) == {f"{name}.weight" for name in expected}


def test_a_linear_layer_that_shares_its_weight_has_none() -> None:
    model = build()
    layers = model.model.layers
    layers[4].mlp.up_proj.weight = layers[1].mlp.up_proj.weight
    assert len(linear_layers(LayeredModel(model, "model.layers", "causal_lm"))) == 6 * 7 - 2


@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_the_student_is_the_model_with_the_merged_weights(name: str, changes: dict[str, Any]) -> None:
    model, batch = build(name, **changes), batches(1)[0]
    path = find_stack(model)
    # A repair has changed a weight that an adapter is around, and one that none is around.
    target = next(iter(linear_layers(LayeredModel(model, path, "causal_lm"))))
    norm = next(n for n, _ in model.named_parameters() if "norm" in n or "ln_1" in n)
    given = {n: torch.randn_like(model.get_parameter(n)) for n in (f"{target}.weight", norm)}

    def pruned_logits(weights: Mapping[str, Tensor]) -> Tensor:
        with bypassed(layers_of(model, path), (2, 3)):
            return logits_of(model, batch, weights)

    with frozen(model), torch.no_grad():
        adapters = Adapters(LayeredModel(model, path, "causal_lm"), Variant((2, 3), given), 0)
        assert torch.equal(logits_with(adapters, batch), pruned_logits(given))
        assert all(torch.equal(adapters.changes()[n], tensor) for n, tensor in given.items())
        for tensor in adapters.tensors.values():
            tensor.normal_(0, 0.1)
        found = logits_with(adapters, batch)
        assert not torch.allclose(found, pruned_logits(given), atol=1e-2)
        torch.testing.assert_close(found, pruned_logits(adapters.changes()), atol=1e-3, rtol=1e-4)
        assert torch.equal(adapters.changes()[norm], given[norm])


@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_one_step_is_that_of_peft_on_the_model_with_its_layers_really_removed(
    name: str, changes: dict[str, Any]
) -> None:
    model, data = build(name, **changes), batches()
    path = find_stack(model)
    healed = heal(
        LayeredModel(model, path, "causal_lm"),
        data,
        Variant((2, 3), {}),
        # All samples, so that their order does not matter.
        Training(Healing(1, 1e-3, 0.0, "lora", batch_size=24), seed=5),
    )
    assert healed.step == 1
    pruned = copy.deepcopy(model)
    new_numbers = remove_layers(pruned, path, (2, 3))
    stepped = _one_step_of_peft(pruned, LINEAR[name], next(rebatch(split(data)[0], 24)))
    assert max(_distance(healed.changes, stepped, str(path), new_numbers)) < 1e-5
    assert all(not torch.equal(healed.changes[n], model.get_parameter(n)) for n in healed.trained_tensors)


@pytest.mark.parametrize("alpha", [1.0, 0.0])
@pytest.mark.parametrize(("name", "changes"), MODELS)
def test_no_trace_of_it_is_left_in_the_dense_model(name: str, changes: dict[str, Any], alpha: float) -> None:
    model = build(name, **changes)
    before, values = everything_about(model), {n: t.clone() for n, t in model.state_dict().items()}
    heal(
        LayeredModel(model, find_stack(model), "causal_lm"),
        batches(),
        Variant((2, 3), {}),
        Training(Healing(8, 1e-2, alpha, "lora")),
    )
    assert everything_about(model) == before
    assert list(model.state_dict()) == list(values)
    assert all(torch.equal(tensor, values[n]) for n, tensor in model.state_dict().items())


def test_adapters_of_a_model_in_half_precision_are_in_single() -> None:
    model = build().bfloat16()
    with frozen(model):
        adapters = Adapters(LayeredModel(model, "model.layers", "causal_lm"), Variant((2, 3), {}), 0)
        assert {tensor.dtype for tensor in adapters.tensors.values()} == {torch.float32}
        assert {tensor.dtype for tensor in adapters.changes().values()} == {torch.bfloat16}


def test_a_step_that_fails_leaves_the_dense_model_as_it_was() -> None:
    model = build()
    before = everything_about(model)
    unknown = torch.full((1, 8), 60)
    with frozen(model):
        adapters = Adapters(LayeredModel(model, "model.layers", "causal_lm"), Variant((2, 3), {}), 0)
        with pytest.raises(IndexError):
            logits_with(adapters, Batch({"input_ids": unknown}, unknown))
    assert everything_about(model) == before


def test_the_random_numbers_of_others_are_not_used_up() -> None:
    model = build()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    Adapters(LayeredModel(model, "model.layers", "causal_lm"), Variant((2,), {}), 0)
    assert torch.equal(torch.rand(1), expected)


def test_a_model_without_linear_layers_is_refused_by_name() -> None:
    model = ResNetForImageClassification(ResNetConfig(hidden_sizes=[8, 8], depths=[2, 2], embedding_size=8))
    path = find_stack(model)
    require_trainable(Healing(5), LayeredModel(model, path, "causal_lm"))
    require_trainable(Healing(0, trained="lora"), LayeredModel(model, path, "causal_lm"))
    with pytest.raises(UnsupportedArchitecture, match="ResNetForImageClassification have no linear layers"):
        require_trainable(Healing(5, trained="lora"), LayeredModel(model, path, "causal_lm"))


def logits_with(adapters: Adapters, batch: Batch) -> Tensor:
    with adapters.student() as student:
        return logits_of(student, batch)


def _one_step_of_peft(pruned: nn.Module, linear: list[str], batch: Batch) -> dict[str, Tensor]:
    """The weights of a copy after one step of AdamW on peft's own adapters, merged by peft."""
    torch.manual_seed(5)
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=linear, fan_in_fan_out="attn.c_attn" in linear)
    adapted = peft.get_peft_model(copy.deepcopy(pruned), config)
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    loss_of(logits_of(adapted, batch), batch.labels, "causal_lm").backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0).step()
    return dict(adapted.merge_and_unload().named_parameters())


def _distance(found: Any, expected: dict[str, Tensor], path: str, new_numbers: dict[int, int]) -> list[float]:
    def new_name(name: str) -> str:
        number, _, rest = name.removeprefix(f"{path}.").partition(".")
        return f"{path}.{new_numbers[int(number)]}.{rest}"

    return [(tensor - expected[new_name(name)]).abs().max().item() for name, tensor in found.items()]
