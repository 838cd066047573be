"""What is fitted at a cut, against regressions of numpy on all rows at once."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from sglp_core.execution import native_types
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.weight_changes import swapped
from sglp_core.repair.least_squares import ElementwiseFit
from sglp_core.repair.normal_equations import RIDGES, USUAL_RIDGE, LinearFit, TunedLinearFit
from sglp_core.repair.refit import RefitThroughNorm
from sglp_core.repair.repair import repair
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.repair.writes.residual_writes import CannotFold
from sglp_core.structure.layer_stack import find_stack
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch
from tests.sglp_core.repair.repair_models import GROUPED, POST_NORM, batches, build, cut_at


@pytest.mark.parametrize("alpha", [1.0, 1.7])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("positions", [300, 5])
def test_least_squares_equals_weighted_ridge_regression_on_all_rows_at_once(
    positions: int, shift: bool, alpha: float
) -> None:
    generator = np.random.default_rng(0)
    written, output, target = (generator.normal(size=(positions, 8)) for _ in range(3))
    target[0] *= 1e4
    fit = LinearFit(8, 8, shift)
    for rows in np.array_split(np.arange(positions), min(positions, 7)):
        fit.add(*(torch.from_numpy(each[rows]) for each in (written, output, target)))
    change, constant = fit.solve(0.1, alpha)
    mapped = np.eye(8) + change.numpy()

    root = 1 / np.linalg.norm(target, axis=1, keepdims=True)
    penalty = 0.1 * np.mean(np.sum((root * written) ** 2, 0))
    features = np.hstack([written, np.ones((positions, 1))]) if shift else written
    regular = np.sqrt(penalty) * np.eye(8, features.shape[1])
    # T is drawn to the identity: its rows are those of a regression whose last equations say so.
    left = np.vstack([root * features, regular])
    right = np.vstack([root * (target / alpha - output + written), np.sqrt(penalty) * np.eye(8)])
    expected = np.linalg.lstsq(left, right, rcond=None)[0]
    np.testing.assert_allclose(mapped, expected[:8], rtol=1e-8, atol=1e-10)
    assert (constant is None) == (not shift)
    if shift:
        np.testing.assert_allclose(constant, expected[8], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("noise", [0.01, 20.0])
def test_the_ridge_of_a_refit_is_the_one_that_errs_least_on_what_was_not_fitted(noise: float) -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(12, 5))
    parts = []
    for rows in (30, 40):
        entered, output = generator.normal(size=(rows, 12)), generator.normal(size=(rows, 5))
        parts.append((entered, output, output + entered @ truth + noise * generator.normal(size=(rows, 5))))
    refit = TunedLinearFit(12, 5, shift=False)
    for part, held_out in zip(parts, (False, True), strict=True):
        refit.add(*(torch.from_numpy(each) for each in part), held_out=held_out)
    mapped, _ = refit.solve()

    def fitted(ridge: float) -> np.ndarray:
        entered, output, target = parts[0]
        root = 1 / np.linalg.norm(target, axis=1, keepdims=True)
        penalty = np.sqrt(ridge * np.mean(np.sum((root * entered) ** 2, 0)))
        left = np.vstack([root * entered, penalty * np.eye(12)])
        right = np.vstack([root * (target - output), np.zeros((12, 5))])
        return np.linalg.lstsq(left, right, rcond=None)[0]

    def error(change: np.ndarray) -> float:
        entered, output, target = parts[1]
        return float(np.sum(np.sum((output + entered @ change - target) ** 2, 1) / np.sum(target**2, 1)))

    best = min(RIDGES, key=lambda ridge: error(fitted(ridge)))
    assert best == (RIDGES[0] if noise < 1 else RIDGES[-1])
    np.testing.assert_allclose(mapped, fitted(best), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shift", [False, True])
def test_fewer_positions_than_features_are_solved_by_the_dual_system(shift: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features, output, target = (torch.randn(60, size, generator=generator).double() for size in (200, 8, 8))
    dual, primal = LinearFit(200, 8, shift), LinearFit(200, 8, shift)
    dual.add(features, output, target)
    # Positions that count for nothing are enough to make it the primal system.
    primal.add(*(torch.cat([each, torch.zeros(200, each.shape[1])]) for each in (features, output)), padded(target))
    for ridge in RIDGES:
        maps = [fit.solve(ridge, 1.3) for fit in (dual, primal)]
        for mine, other in zip(*maps, strict=True):
            assert (mine is None) == (other is None)
            if mine is not None:
                torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)
        # Their errors differ by a constant: that of no map at all.
        nothing = (torch.zeros(200, 8).double(), torch.zeros(8).double() if shift else None)
        errors = [fit.error(maps[0], 1.3) - fit.error(nothing, 1.3) for fit in (dual, primal)]
        assert errors[0] == pytest.approx(errors[1], rel=1e-8)


def padded(target: Tensor) -> Tensor:
    return torch.cat([target, torch.full((200, target.shape[1]), 1e12)])


@pytest.mark.parametrize("shift", [False, True])
def test_as_many_features_as_enter_the_mlp_of_a_large_model_are_fitted(shift: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    features, output, target = (torch.randn(96, size, generator=generator) for size in (18_944, 8, 8))
    fit = LinearFit(18_944, 8, shift)
    for part in zip(features.split(32), output.split(32), target.split(32), strict=True):
        fit.add(*part)
    change, constant = fit.solve(0.1)

    # The objective is strictly convex, so the one map at which its gradient is zero is the answer.
    weight = 1 / target.double().square().sum(1, keepdim=True)
    rest = features.double() @ change - (target.double() - output.double())
    if constant is not None:
        rest += constant
        torch.testing.assert_close((weight * rest).sum(0), torch.zeros(8).double(), rtol=0, atol=1e-10)
    penalty = 0.1 * (weight * features.double().square()).sum() / 18_944
    torch.testing.assert_close(features.double().T @ (weight * rest), -penalty * change, rtol=1e-8, atol=1e-10)


def test_a_model_with_as_many_is_refitted() -> None:
    sizes = {**GROUPED, "intermediate_size": 18_944, "hidden_size": 8, "num_hidden_layers": 3}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    (attempt,) = repair(LayeredModel(model, "model.layers", "causal_lm"), batches(4), (2,), "refit").attempts
    assert attempt.error_after is not None


@pytest.mark.parametrize("positions", [10, 50])
def test_equations_that_do_not_fit_in_memory_are_refused(positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = TunedLinearFit(32, 8, shift=False)
    monkeypatch.setattr(native_types, "free_bytes", lambda _device: 14 * 1024)
    for held_out in (False, True):
        for _ in range(2):
            part = (torch.randn(positions, size) for size in (32, 8, 8))
            fit.add(*part, held_out=held_out)
    with pytest.raises(CannotFold, match="GiB are free"):
        fit.solve()


def test_a_fit_that_is_not_tuned_has_the_usual_ridge_and_no_use_for_held_out_positions() -> None:
    quick, plain = TunedLinearFit(6, 4, shift=True, tunes=False), LinearFit(6, 4, shift=True)
    for held_out in (False, True):
        part = [torch.randn(20, size) for size in (6, 4, 4)]
        quick.add(*part, held_out=held_out)
        if not held_out:
            plain.add(*part)
    for found, expected in zip(quick.solve(2.0), plain.solve(USUAL_RIDGE, 2.0), strict=True):
        assert torch.equal(found, expected)


def test_features_that_are_all_zero_are_refused() -> None:
    for positions in (4, 40):
        fit = LinearFit(8, 8, shift=False)
        fit.add(torch.zeros(positions, 8), torch.ones(positions, 8), torch.ones(positions, 8))
        with pytest.raises(CannotFold, match="not positive definite"):
            fit.solve()


@pytest.mark.parametrize("name", [*POST_NORM, "gemma2", "gemma3"])
def test_a_projection_is_fitted_through_the_norm_behind_it(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    finder = WriteFinder(LayeredModel(model, path, "causal_lm"), batches(1)[0])
    write = finder.writes(2).modules[0]
    inner = finder.projection_before(2, write)
    last = {"bert": "output.dense", "distilbert": "ffn.lin2", "opt-350m": "fc2"}.get(name, "mlp.down_proj")
    assert inner.module == f"{path}.2.{last}"

    def streams(batch: Batch, through: Any) -> Any:
        return cut_at(finder, [batch], (3,), Run(3, 4)).streams(batch, through)

    weight = model.get_submodule(inner.module).weight
    other = {f"{inner.module}.weight": weight.data + torch.randn_like(weight) * weight.std() / 2}
    refit = RefitThroughNorm(model, write, inner)
    pairs = []
    for batch, held_out in zip(batches(24), [False] * 16 + [True] * 8, strict=True):
        with swapped(model, other):
            target = streams(batch, write).pruned
        here = streams(batch, write)
        entered = streams(batch, inner).entered
        refit.add(entered, replace(here, target=target), held_out=held_out)
        pairs.append((batch, here.pruned, target))
    apart_before = apart_after = 0.0
    with swapped(model, refit.changes()):
        for batch, pruned, target in pairs[16:]:
            apart_before += float((pruned - target).square().sum())
            apart_after += float((streams(batch, write).pruned - target).square().sum())
    assert apart_after < 0.05 * apart_before


@pytest.mark.parametrize("alpha", [1.0, 1.7])
@pytest.mark.parametrize("shift", [False, True])
def test_elementwise_least_squares_equals_a_regression_of_each_channel(shift: bool, alpha: float) -> None:
    generator = np.random.default_rng(0)
    written, output, target = (generator.normal(size=(300, 8)) for _ in range(3))
    fit = ElementwiseFit(8, shift)
    for rows in np.array_split(np.arange(300), 7):
        fit.add(*(torch.from_numpy(each[rows]) for each in (written, output, target)))
    mapped, constant = fit.solve(0.1, alpha)

    root = 1 / np.linalg.norm(target, axis=1)
    for channel in range(8):
        column = root * written[:, channel]
        regular = np.sqrt(0.1 * column @ column)
        left = np.stack([column, root if shift else np.zeros(300)], 1)
        right = root * (target / alpha - output + written)[:, channel]
        solution = np.linalg.lstsq(np.vstack([left, [regular, 0]]), np.append(right, regular), rcond=None)[0]
        assert mapped[channel] == pytest.approx(solution[0], rel=1e-8)
        if shift:
            assert constant is not None
            assert constant[channel] == pytest.approx(solution[1], rel=1e-8)
