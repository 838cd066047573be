import itertools
from typing import Any

import numpy as np
import pytest
import transformers

from sglp_core.errors import TargetUnreachable
from sglp_core.options import Target
from sglp_core.planning.layer_kinds import plan_keeping_kinds, removable_counts
from sglp_core.planning.plan import costs_of_layers
from sglp_core.structure.layer_stack import LayerStack, measure_stack
from sglp_core.structure.runs import Stage

LAYERS = 8
ATTENTION = (2, 5)


@pytest.fixture(scope="module")
def stack() -> LayerStack:
    """LFM2: short convolutions, and attention in two layers of eight."""
    config = transformers.Lfm2Config(
        vocab_size=99,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["full_attention" if i in ATTENTION else "conv" for i in range(LAYERS)],
        architectures=["Lfm2ForCausalLM"],
    )
    return measure_stack(config, 16)


def planned(stack: LayerStack, costs: list[float], count: int, protected: set[int]) -> tuple[int, ...]:
    target, whole = Target("layers", count / LAYERS), (Stage(0, LAYERS),)
    return plan_keeping_kinds(stack, target, costs_of_layers(costs), whole, protected).removed_layers


def test_layers_of_one_kind_keep_their_parameters_in_the_same_classes(stack: LayerStack) -> None:
    kinds = [layer.kinds for layer in stack.layers]
    assert {i for i, kind in enumerate(kinds) if kind == kinds[2]} == set(ATTENTION)
    assert len(set(kinds)) == 2


def test_the_dearest_layer_of_a_kind_stays(stack: LayerStack) -> None:
    cheap_attention = [5.0, 5, 1, 5, 5, 0, 4, 5]
    assert planned(stack, cheap_attention, 2, set()) == (5, 6)
    # Removing both at once is allowed by no plan, whatever it costs.
    assert not stack.can_remove(ATTENTION)
    assert stack.can_remove((2, 3))


@pytest.mark.parametrize("count", range(1, LAYERS - 1))
def test_every_plan_keeps_every_kind(stack: LayerStack, count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(20):
        costs = rng.random(LAYERS).tolist()
        removed = planned(stack, costs, count, set())
        assert len(removed) == count
        allowed = [s for s in itertools.combinations(range(LAYERS), count) if not set(ATTENTION) <= set(s)]
        best = min(sum(costs[i] for i in s) for s in allowed)
        assert sum(costs[i] for i in removed) == pytest.approx(best)


def test_what_no_plan_can_reach_is_an_error(stack: LayerStack) -> None:
    with pytest.raises(TargetUnreachable):
        planned(stack, [1.0] * LAYERS, LAYERS - 1, {0})


def test_a_type_without_which_there_is_no_configuration_keeps_a_layer() -> None:
    """NeoMME asks for full attention in one layer at least, and does without windows."""
    types = ["sliding_attention", "full_attention"] * 2
    values: dict[str, Any] = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    values |= {"num_key_value_heads": 2, "head_dim": 16}

    def made(layer_types: list[str]) -> Any:
        return transformers.NeoMMEConfig(
            **values, num_hidden_layers=len(layer_types), layer_types=layer_types, architectures=["NeoMMEForMaskedLM"]
        )

    stack = measure_stack(made(types), 16)
    for removed in (each for count in (1, 2, 3) for each in itertools.combinations(range(4), count)):
        left = [layer_type for index, layer_type in enumerate(types) if index not in removed]
        try:
            made(left)
        except ValueError:
            assert not stack.can_remove(removed), removed
        else:
            assert stack.can_remove(removed), removed
    assert removable_counts(stack, set()) == [1, 2, 3]
    assert removable_counts(stack, {0, 2}) == [1]
