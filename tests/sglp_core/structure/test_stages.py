"""Which blocks of a staged network are layers, and which of them may go together."""

from itertools import chain, combinations

import pytest
from transformers import MobileNetV2Config, ResNetConfig, SwinConfig, SwinForImageClassification

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.structure.layer_stack import find_stack, measure_stack
from sglp_core.structure.runs import Stage
from sglp_core.structure.stages import removable_runs

STAGES = (Stage(0, 5), Stage(5, 8))
FORMS = ("a", "b", "a", "b", "a", "a", "b", "a")


def subsets(count: int) -> list[tuple[int, ...]]:
    return list(chain.from_iterable(combinations(range(count), size) for size in range(count + 1)))


def test_runs_may_go_where_the_rest_is_what_the_class_builds_from_the_front() -> None:
    allowed = removable_runs(STAGES, FORMS)
    for removed in subsets(8):
        starts = [i for i in removed if i - 1 not in removed]
        ends = [i + 1 for i in removed if i + 1 not in removed]
        expected = True
        for stage in STAGES:
            kept = [FORMS[i] for i in stage.layers if i not in removed]
            expected &= kept == list(FORMS[stage.start : stage.start + len(kept)])
        assert allowed[starts, ends].all() == expected, removed


def test_a_stage_keeps_a_layer() -> None:
    config = SwinConfig(depths=[2, 4], num_heads=[2, 2], embed_dim=16, window_size=4, image_size=64, patch_size=4)
    stack = measure_stack(_named(config, "SwinForImageClassification"), 1)
    assert stack.can_remove((1, 4, 5))
    assert not stack.can_remove((0, 1))
    assert not stack.can_remove((2, 3, 4, 5))


def test_a_block_that_begins_a_stage_stays_where_it_changes_the_shape() -> None:
    sizes = {"depths": [2, 3], "hidden_sizes": [8, 16], "embedding_size": 8, "layer_type": "basic"}
    stack = measure_stack(_named(ResNetConfig(**sizes), "ResNetForImageClassification"), 1, (3, 32, 32))
    # The first stage keeps size and width, the second begins with half of the one and twice the other.
    assert [layer.name.removeprefix("resnet.encoder.stages.") for layer in stack.layers] == [
        "0.layers.0",
        "0.layers.1",
        "1.layers.1",
        "1.layers.2",
    ]
    assert stack.stages == (Stage(0, 2), Stage(2, 4))


def test_a_network_whose_class_fixes_its_blocks_is_refused() -> None:
    with pytest.raises(UnsupportedArchitecture, match=r"mobilenet_v2\.layer \(16\)"):
        measure_stack(_named(MobileNetV2Config(), "MobileNetV2ForImageClassification"), 1)


def test_stages_that_are_not_in_the_model_are_refused() -> None:
    config = SwinConfig(depths=[2, 2], num_heads=[2, 2], embed_dim=16, window_size=4, image_size=64, patch_size=4)
    model = SwinForImageClassification(config)
    model.config.depths = [5, 3]
    with pytest.raises(UnsupportedArchitecture, match=r"stages of \[5, 3\] blocks .* found none"):
        find_stack(model)


def _named(config: SwinConfig, name: str) -> SwinConfig:
    config.architectures = [name]
    return config
