"""Layers that are not run at all must give what layers give that are run and bypassed, number for number."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from sglp_core.removal.bypass import Skipper, bypassed
from sglp_core.removal.weight_changes import swapped
from sglp_core.structure.layer_stack import find_stack, layers_of
from tests.round_trip.test_round_trip import CASES, HYBRIDS


# Every second one: they differ in what a layer is, not in how it is called.
@pytest.mark.parametrize("name", [*CASES, *list(HYBRIDS)[::2]])
@torch.no_grad()
def test_skipping_equals_bypassing(name: str) -> None:
    stock = getattr(transformers, name)
    torch.manual_seed(0)
    model = stock(stock.config_class(**(CASES | HYBRIDS)[name])).eval()
    layers = layers_of(model, find_stack(model))
    if model.main_input_name == "pixel_values":
        probe = {"pixel_values": torch.randn(2, 3, 16, 16)}
    else:
        probe = {"input_ids": torch.randint(5, 99, (2, 20))}
    skipper = Skipper(model, layers)
    with skipper.watched():
        dense = model(**probe).logits
    for removed in ((), (0,), (2, 5), (4, 5, 6, 7), tuple(range(8))) if name in CASES else ((), (2, 5), (3, 4)):
        with bypassed(layers, removed):
            expected = model(**probe).logits
        with skipper.without(removed):
            assert torch.equal(model(**probe).logits, expected)
        for changed in (0, 3, 7):
            changes = changed_in(model, layers[changed])
            with bypassed(layers, removed), swapped(model, changes):
                expected = model(**probe).logits
            with skipper.without(removed, changes), swapped(model, changes):
                assert torch.equal(model(**probe).logits, expected)
    assert torch.equal(model(**probe).logits, dense)


def test_what_is_removed_is_not_run() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CASES["LlamaForCausalLM"])).eval()
    probe = torch.randint(5, 99, (2, 20))
    ran: list[int] = []

    def count(index: int) -> Any:
        return lambda *_: ran.append(index)

    skipper = Skipper(model, model.model.layers)
    with skipper.watched():
        model(probe)
    for index, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(count(index))
    with skipper.without((3, 5)):
        model(probe)
    assert ran == [4, 6, 7]
    ran.clear()
    for layer, others, expected in ((2, (), [2, 4, 6, 7]), (4, (), [4, 6, 7]), (1, (6,), [1, 2, 4, 6, 7])):
        ran.clear()
        changes = {}
        for index in (layer, *others):
            changes |= changed_in(model, model.model.layers[index])
        with skipper.without((3, 5), changes), swapped(model, changes):
            model(probe)
        assert ran == expected


@torch.no_grad()
def test_what_changes_outside_of_the_layers_may_come_before_them_all() -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CASES["LlamaForCausalLM"])).eval()
    probe = torch.randint(5, 99, (2, 20))
    skipper = Skipper(model, model.model.layers)
    with skipper.watched():
        dense = model(probe).logits
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        changes = {name: 2 * torch.rand_like(model.get_parameter(name))}
        for removed in ((), (0,), (3, 5)):
            with bypassed(model.model.layers, removed), swapped(model, changes):
                expected = model(probe).logits
            with skipper.without(removed, changes), swapped(model, changes):
                assert torch.equal(model(probe).logits, expected)
            assert not torch.equal(expected, dense)


def changed_in(model: nn.Module, layer: nn.Module) -> dict[str, Tensor]:
    """Another value for the last matrix of a layer, by its name in the model."""
    last = [parameter for parameter in layer.parameters() if parameter.ndim > 1][-1]
    name = next(name for name, parameter in model.named_parameters() if parameter is last)
    return {name: last.detach() * 1.5}
