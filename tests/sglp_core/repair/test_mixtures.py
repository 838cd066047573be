"""What is folded into experts, against the same change made by a hook at the output of their block."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sglp_core.execution import native_types
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import bypassed
from sglp_core.execution.weight_changes import swapped
from sglp_core.repair.fold import fold, has_shift, shrink
from sglp_core.repair.named_repairs import combination_name, combinations
from sglp_core.repair.repair import repair
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.repair.writes.find import find_writes
from sglp_core.repair.writes.residual_writes import CannotFold, LayerCall, Write
from sglp_core.structure.layer_calls import layer_output
from sglp_core.structure.runs import Run
from tests.sglp_core.repair.repair_models import MIXTURES, apart, batches, build, compensation, cut_at, logits, scaled

DOWN = "mlp.experts.down_proj"
# The parameters that make what the experts of a layer write, the one that holds a constant, and a shared expert.
FORMS: dict[str, tuple[list[tuple[str, int]], str | None, str | None]] = {
    "mixtral": ([(DOWN, 1)], None, None),
    "qwen3-moe": ([(DOWN, 1)], None, None),
    "qwen2-moe": ([(DOWN, 1), ("mlp.shared_expert.down_proj.weight", 0)], None, None),
    "deepseek-v3": ([(DOWN, 1), ("mlp.shared_experts.down_proj.weight", 0)], None, "mlp.shared_experts.down_proj"),
    "gpt-oss": ([(DOWN, 2), (f"{DOWN}_bias", 1)], f"{DOWN}_bias", None),
}


def finder_of(model: Any) -> WriteFinder:
    return WriteFinder(LayeredModel(model, "model.layers", "causal_lm"), batches(1)[0])


def moved_output(model: Any, write: Write, scale: Tensor, shift: Tensor | float) -> Any:
    """A hook that maps what the write adds to the stream."""

    def moved(_module: nn.Module, _args: Any, output: Any) -> Any:
        hidden = layer_output(output) @ scale + shift / write.gain
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    return model.get_submodule(write.module).register_forward_hook(moved)


@pytest.mark.parametrize("name", FORMS)
def test_the_parameters_that_make_what_experts_write_are_found(name: str) -> None:
    parameters, bias, shared = FORMS[name]
    experts, attention = finder_of(build(name)).writes(3).modules
    prefix = "model.layers.3."
    assert attention.module == f"{prefix}self_attn.o_proj"
    assert experts.mixture is not None
    assert [(each.name, each.axis) for each in experts.mixture.parameters] == [(prefix + n, a) for n, a in parameters]
    assert (experts.mixture.bias and experts.mixture.bias.name) == (bias and prefix + bias)
    assert (experts.mixture.shared and experts.mixture.shared.module) == (shared and prefix + shared)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_dense_layer_of_a_mixed_stack_has_a_projection(name: str) -> None:
    operations = [finder_of(build(name)).writes(index).modules[0].operation for index in range(6)]
    dense = {"qwen3-moe": {0, 2, 4}, "deepseek-v3": {0}}.get(name, set())
    assert operations == ["linear" if index in dense else "mixture" for index in range(6)]


@pytest.mark.parametrize("name", MIXTURES)
def test_a_map_folded_into_experts_equals_the_same_map_of_what_they_write(name: str) -> None:
    model, batch = build(name), batches(1)[0]
    write = finder_of(model).writes(3).modules[0]
    scale = torch.randn(32, 32, dtype=torch.float64)
    shift = torch.randn(32, dtype=torch.float64) if has_shift(model, write) else None
    handle = moved_output(model, write, scale, 0 if shift is None else shift)
    expected = logits(model, batch)
    handle.remove()
    before = logits(model, batch)
    with swapped(model, fold(model, write, scale, shift)):
        folded = logits(model, batch)
    assert apart(before, expected) > 1e-3
    # Routers that compute in float32, whatever they are given, leave 1e-7.
    assert apart(folded, expected) < 1e-6
    assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("alpha", [0.5, 1.7])
def test_a_growth_folded_into_experts_equals_the_same_factor_at_the_cut(name: str, alpha: float) -> None:
    model, batch = build(name), batches(1)[0]
    finder, layers = finder_of(model), model.model.layers
    candidate = compensation(cut_at(finder, [batch], (2, 3), Run(2, 4)), alpha)
    assert (candidate.changes, candidate.shrinkage) == ({}, pytest.approx(alpha))
    new = shrink(model, finder.writes(4), alpha) | shrink(model, finder.writes(5), alpha)
    with bypassed(layers, (2, 3)):
        without = logits(model, batch)
        with scaled(layers[3], alpha):
            expected = logits(model, batch)
        with swapped(model, new):
            folded = logits(model, batch)
    assert apart(without, expected) > 1e-3
    assert apart(folded, expected) < 1e-5


@pytest.mark.parametrize("name", MIXTURES)
def test_all_repairs_of_a_mixture_are_tried_and_refit_only_with_a_shared_expert(name: str) -> None:
    model = build(name)
    repaired = repair(LayeredModel(model, "model.layers", "causal_lm"), batches(8), (4,), "auto")
    assert {each.repair for each in repaired.attempts} == {combination_name(each) for each in combinations("auto")}
    tried = [each for each in repaired.attempts if not (each.reason or "").startswith("not tried")]
    refused = {each.repair: each.reason for each in tried if each.error_after is None}
    if FORMS[name][2]:
        assert not refused
    else:
        assert refused.keys() == {"refit", "compensate + refit"} & {each.repair for each in tried}
        assert "compensate + refit" in refused
        assert all("differs from expert to expert" in str(reason) for reason in refused.values())
    for each in repaired.attempts:
        if each.accepted:
            assert each.error_after is not None
            assert each.error_before is not None
            assert each.error_after < each.error_before
    if repaired.changes:
        assert repaired.quality is not None
        assert repaired.quality.before is not None
        assert repaired.quality.after.kl < repaired.quality.before.kl


def test_parameters_that_are_zero_are_found_too() -> None:
    model = build("gpt-oss")
    bias = model.model.layers[3].mlp.experts.down_proj_bias
    with torch.no_grad():
        bias.zero_()
    write = finder_of(model).writes(3).modules[0]
    assert write.mixture is not None
    assert write.mixture.bias is not None
    assert write.mixture.bias.name == f"model.layers.3.{DOWN}_bias"
    assert not bias.any()


def test_experts_that_two_layers_share_are_refused() -> None:
    model = build("mixtral")
    layers = model.model.layers
    layers[3].mlp.experts.down_proj = layers[4].mlp.experts.down_proj
    finder = finder_of(model)
    with pytest.raises(CannotFold, match="shared with another module"):
        fold(model, finder.writes(3).modules[0], torch.tensor(2.0))
    with pytest.raises(CannotFold, match="shared with another module"):
        finder.require_undone([3])
    # The layers behind are not mixed up with those.
    finder.require_undone([5, 6])
    assert [w.module for w in finder.writes(5).modules] == [f"model.layers.5.{m}" for m in ("mlp", "self_attn.o_proj")]


def test_experts_that_do_not_fit_in_memory_twice_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = finder_of(build("mixtral"))
    monkeypatch.setattr(native_types, "free_bytes", lambda _device: 2**10)
    with pytest.raises(CannotFold, match=r"model\.layers\.3 cannot be probed: a copy in float64 takes"):
        finder.writes(3)
    # These would keep the weights of the layer on its device.
    reason = finder._survey.writes[3]
    assert isinstance(reason, CannotFold)
    assert (reason.__traceback__, reason.__cause__, reason.__context__) == (None, None, None)


class Experts(nn.Module):
    """Sends each position to the expert of its parity, out of a list in which most never have a position."""

    def __init__(self, count: int, last: type[nn.Module] = nn.Identity) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 8), last()) for _ in range(count)
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        halves = [expert(hidden_states[:, start::2]) for start, expert in enumerate(self.experts[:2])]
        return torch.stack(halves, 2).flatten(1, 2)


class Layer(nn.Module):
    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden_states: Tensor) -> Tensor:
        return hidden_states + 0.5 * self.mlp(hidden_states)


def test_experts_without_a_position_are_like_those_of_their_list() -> None:
    layer = Layer(Experts(5))
    call = LayerCall((torch.randn(2, 6, 8),), {})
    (write,) = find_writes(layer, "layer", call).modules
    assert write.gain == pytest.approx(0.5)
    assert write.mixture is not None
    names = [each.name for each in write.mixture.parameters]
    assert sorted(names) == sorted(f"layer.mlp.experts.{i}.2.{part}" for i in range(5) for part in ("weight", "bias"))
    # Each bias is seen at half of the positions only, so none of them holds a constant.
    assert write.mixture.bias is None


def test_experts_whose_outputs_are_normed_or_that_are_never_seen_are_refused() -> None:
    class Normed(nn.RMSNorm):
        def __init__(self) -> None:
            super().__init__(8)

    class Unseen(Experts):
        def __init__(self) -> None:
            super().__init__(2)
            self.third = nn.Linear(8, 8)

    call = LayerCall((torch.randn(2, 6, 8),), {})
    for mlp, message in ((Experts(2, Normed), "no module of layer"), (Unseen(), "mlp.third.weight does nothing")):
        with pytest.raises(CannotFold, match=message):
            find_writes(Layer(mlp), "layer", call)
