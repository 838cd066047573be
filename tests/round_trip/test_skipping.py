"""Layers that are not run at all must give what layers give that are run and bypassed, number for number."""

from typing import Any

import pytest
import torch
import transformers

from sglp_core.layers import find_stack, layers_of
from sglp_core.skipping import Skipper
from sglp_core.surgery import bypassed
from tests.round_trip.test_round_trip import CASES


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_skipping_equals_bypassing(name: str) -> None:
    stock = getattr(transformers, name)
    torch.manual_seed(0)
    model = stock(stock.config_class(**CASES[name])).eval()
    layers = layers_of(model, find_stack(model))
    if model.main_input_name == "pixel_values":
        probe = {"pixel_values": torch.randn(2, 3, 16, 16)}
    else:
        probe = {"input_ids": torch.randint(5, 99, (2, 20))}
    skipper = Skipper(model, layers)
    with skipper.watched():
        dense = model(**probe).logits
    for removed in ((), (0,), (2, 5), (4, 5, 6, 7), tuple(range(8))):
        with bypassed(layers, removed):
            expected = model(**probe).logits
        for resume in (True, False):
            with skipper.without(removed, resume):
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
    with skipper.without((3, 5), resume=False):
        model(probe)
    assert ran == [0, 1, 2, 4, 6, 7]
