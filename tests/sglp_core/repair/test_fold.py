"""What is folded into weights, against the same change made by a hook."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import bypassed
from sglp_core.execution.weight_changes import swapped
from sglp_core.repair import write_finder
from sglp_core.repair.fold import fold, fold_change, shrink
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.repair.writes.residual_writes import CannotFold
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.structure.runs import Run
from tests.sglp_core.repair.repair_models import (
    FAMILIES,
    POST_NORM,
    PRE_NORM,
    apart,
    batches,
    build,
    compensation,
    cut_at,
    logits,
    scaled,
)


@pytest.mark.parametrize("name", PRE_NORM)
def test_the_writes_of_a_layer_are_found(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    writes = WriteFinder(LayeredModel(model, path, "causal_lm"), batches(1)[0]).writes(2)
    assert [w.module for w in writes.modules] == [f"{path}.2.{module}" for module in PRE_NORM[name][2]]
    assert not writes.whole
    assert [w.gain for w in writes.modules] == pytest.approx([0.3 if name == "granite" else 1] * 2)
    assert {w.offset for w in writes.modules} == {1.0 if name.startswith("gemma") else 0.0}


@pytest.mark.parametrize("name", POST_NORM)
def test_a_post_norm_is_the_whole_output(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    writes = WriteFinder(LayeredModel(model, path, "causal_lm"), batches(1)[0]).writes(2)
    assert ([w.module for w in writes.modules], writes.whole) == ([f"{path}.2.{POST_NORM[name][2]}"], True)


@pytest.mark.parametrize("name", FAMILIES)
def test_only_pre_norm_models_undo_factors(name: str) -> None:
    model = build(name)
    finder = WriteFinder(LayeredModel(model, find_stack(model), "causal_lm"), batches(1)[0])
    assert finder.undoes_factors() == (name in PRE_NORM)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("alpha", [0.5, 1.7])
def test_a_folded_growth_equals_the_same_factor_at_the_cut(name: str, alpha: float) -> None:
    model = build(name)
    path = find_stack(model)
    layers, batch = layers_of(model, path), batches(1)[0]
    finder = WriteFinder(LayeredModel(model, path, "causal_lm"), batch)
    candidate = compensation(cut_at(finder, [batch], (2, 3), Run(2, 4)), alpha)
    assert candidate.alpha == pytest.approx(alpha)
    # A pre-norm stream gets smaller, and so must what is added to it later.
    assert candidate.shrinkage == (1.0 if name in POST_NORM else pytest.approx(alpha))
    new = dict(candidate.changes)
    if name not in POST_NORM:
        new |= shrink(model, finder.writes(4), alpha) | shrink(model, finder.writes(5), alpha)
    with bypassed(layers, (2, 3)):
        without = logits(model, batch)
        with scaled(layers[3], alpha):
            expected = logits(model, batch)
        with swapped(model, new):
            folded = logits(model, batch)
    assert apart(without, expected) > 1e-3
    assert apart(folded, expected) < 1e-5
    assert not any("embed" in changed or "head" in changed for changed in new)


def test_without_a_layer_behind_or_before_there_is_nothing_to_fold_into(monkeypatch: pytest.MonkeyPatch) -> None:
    def finder_of(name: str) -> WriteFinder:
        model = build(name)
        return WriteFinder(LayeredModel(model, find_stack(model), "causal_lm"), batches(1)[0])

    with pytest.raises(CannotFold, match="no layer follows"):
        compensation(cut_at(finder_of("llama"), batches(1), (5,), Run(5, 6)), 2.0)
    finder = finder_of("bert")
    with pytest.raises(CannotFold, match="no layer is left before the cut"):
        compensation(cut_at(finder, batches(1), (0,), Run(0, 1)), 2.0)
    found = finder.writes
    monkeypatch.setattr(finder, "writes", lambda index: replace(found(index), whole=index != 1))
    with pytest.raises(CannotFold, match="norm before the cut"):
        compensation(cut_at(finder, batches(1), (2,), Run(2, 3)), 2.0)


@pytest.mark.parametrize("name", PRE_NORM)
def test_rounding_to_a_half_type_does_not_look_like_a_factor_that_is_not_undone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name).bfloat16()
    # Gemma stores w − 1, which is not half as large with w; the epsilon of OPT's norms is 1e-5.
    rounded_alike = not name.startswith("gemma") and name != "opt"
    monkeypatch.setattr(write_finder, "FOLD_TOLERANCE", 2e-3 if rounded_alike else 2e-2)
    finder = WriteFinder(LayeredModel(model, find_stack(model), "causal_lm"), batches(1)[0])
    finder.require_undone(range(1, 7))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folded_map_equals_the_same_map_of_what_the_module_writes(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    batch = batches(1)[0]
    write = WriteFinder(LayeredModel(model, path, "causal_lm"), batch).writes(2).modules[0]
    module = model.get_submodule(write.module)
    scale = torch.randn((32,) if write.operation == "norm" else (32, 32), dtype=torch.float64)
    shift = torch.randn(32, dtype=torch.float64) if getattr(module, "bias", None) is not None else None

    def mapped(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        moved = output * scale if scale.ndim == 1 else output @ scale
        return moved if shift is None else moved + shift / write.gain

    handle = module.register_forward_hook(mapped)
    expected = logits(model, batch)
    handle.remove()
    before = logits(model, batch)
    with swapped(model, fold(model, write, scale, shift)):
        folded = logits(model, batch)
    assert apart(before, expected) > 1e-3
    # Norms that compute in float32, whatever they are given, leave 1e-7.
    assert apart(folded, expected) < 1e-6
    assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("name", PRE_NORM)
def test_a_changed_weight_adds_what_was_fitted(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    batch = batches(1)[0]
    write = WriteFinder(LayeredModel(model, path, "causal_lm"), batch).writes(2).modules[0]
    module = model.get_submodule(write.module)
    if write.operation == "norm":
        with pytest.raises(CannotFold, match="mixes no channels"):
            fold_change(model, write, torch.zeros(32, 32))
        return
    features = module.weight.numel() // 32
    change = torch.randn(features, 32, dtype=torch.float64)
    shift = torch.randn(32, dtype=torch.float64) if getattr(module, "bias", None) is not None else None

    def more(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added = args[0] @ change
        return output + (added if shift is None else added + shift) / write.gain

    handle = module.register_forward_hook(more)
    expected = logits(model, batch)
    handle.remove()
    with swapped(model, fold_change(model, write, change, shift)):
        folded = logits(model, batch)
    assert apart(logits(model, batch), expected) > 1e-3
    assert apart(folded, expected) < 1e-6
