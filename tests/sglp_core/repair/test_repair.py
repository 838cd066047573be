"""Whole repairs: the streams at a cut, what is accepted, what is refused and why."""

import gc
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.execution.weight_changes import Changes, swapped
from sglp_core.progress import silent_phase
from sglp_core.repair import REPAIRS, Attempt, Candidate, Cut, CutRepair, CutStreams
from sglp_core.repair.contract import HeldOutQuality
from sglp_core.repair.fold import fold, shrink
from sglp_core.repair.named_repairs import combination_name, combinations
from sglp_core.repair.normal_equations import LinearFit
from sglp_core.repair.plan_in_walk import Request
from sglp_core.repair.repair import Repaired, repair
from sglp_core.repair.walk import RepairWalk
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.repair.writes.find import find_writes
from sglp_core.repair.writes.residual_writes import CannotFold, LayerCall
from sglp_core.structure.layer_calls import layer_input
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch, split
from tests.sglp_core.repair.repair_models import FAMILIES, GROUPED, POST_NORM, batches, build, cut_at


@torch.no_grad()
def streams_of(model: Any, removed: tuple[int, ...], changes: Changes, run: Run, batch: Batch) -> tuple[Tensor, Tensor]:
    """The stream of the dense model after a cut and of the pruned one before it, `[N, D]` each, by hooks."""
    layers = layers_of(model, find_stack(model))
    kept: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Any) -> None:
        # Whatever a removed layer returns, it gives on what came in.
        kept.append((output[0] if isinstance(output, tuple) else output) if not kept else layer_input(args, kwargs))

    for index, variant in ((run.stop - 1, ()), (run.start, removed)):
        handle = layers[index].register_forward_hook(keep, with_kwargs=True)
        with bypassed(layers, variant), swapped(model, changes if variant else {}):
            model(**batch.inputs)
        handle.remove()
    mask = batch.inputs["attention_mask"].bool()
    return kept[0][mask], kept[1][mask]


def error_of(
    model: Any, removed: tuple[int, ...], changes: Changes, run: Run, judged: list[Batch], shrinkage: float
) -> float:
    """The relative error of the pruned stream, which is meant to be so many times smaller, mean over positions."""
    pairs = [streams_of(model, removed, changes, run, batch) for batch in judged]
    target, pruned = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return float(((pruned * shrinkage - target).square().sum(-1) / target.square().sum(-1)).mean())


@pytest.mark.parametrize("removed", [(4,), (1, 4)])
def test_the_stream_at_a_cut_is_what_the_dense_and_the_pruned_model_say(removed: tuple[int, ...]) -> None:
    model = build("gpt2")
    (batch,) = batches(1)
    finder = WriteFinder(LayeredModel(model, "transformer.h", "causal_lm"), batch)
    streams = cut_at(finder, [batch], removed, Run(4, 5)).streams(batch)
    kept: list[Tensor] = []
    handle = model.transformer.h[3].mlp.register_forward_hook(lambda _m, _a, output: kept.append(output))
    target, pruned = streams_of(model, removed, {}, Run(4, 5), batch)
    handle.remove()
    mask = batch.inputs["attention_mask"].bool()
    torch.testing.assert_close(streams.target, target, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(streams.pruned, pruned, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(streams.written, kept[-1][mask], rtol=1e-12, atol=1e-12)
    assert streams.first.sum() == 4
    assert mask.sum() == len(streams.first)


def walked(
    name: str, removed: tuple[int, ...], repair_name: str = "auto"
) -> tuple[WriteFinder, Changes, list[Attempt], HeldOutQuality]:
    """The model, and what one walk makes of the removal of these layers before anything is dropped at the exit."""
    model = build(name)
    task: Any = "masked_lm" if "Masked" in FAMILIES[name][0] else "causal_lm"
    finder = WriteFinder(LayeredModel(model, find_stack(model), task), batches(1)[0])
    walk = RepairWalk(finder, batches(8), [Request(removed, frozenset({6, 7}))], combinations(repair_name))
    return finder, *walk.run(silent_phase(), judges_unrepaired=True)[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_at_each_cut_what_errs_least_of_the_longest_combinations_is_taken(name: str) -> None:
    removed, judged = (2, 4), batches(8)[6:]
    finder, changes, attempts, _ = walked(name, removed)
    model, path = finder.model, finder.path
    shrinkage = 1.0
    for run in (Run(2, 3), Run(4, 5)):
        here = [attempt for attempt in attempts if attempt.cut == run]
        lengths = [each.repair.count("+") for each in here if each.built]
        assert lengths == sorted(lengths, reverse=True)
        assert {attempt.repair for attempt in here} == {combination_name(each) for each in combinations("auto")}
        # Before its own repair, the layer before the cut is only smaller by what came before.
        earlier = {
            n: value for n, value in changes.items() if int(n.removeprefix(f"{path}.").split(".")[0]) < run.start - 1
        }
        if shrinkage != 1:
            earlier |= shrink(model, finder.writes(run.start - 1), shrinkage)
        before = error_of(model, removed, earlier, run, judged, shrinkage)
        better = []
        for attempt in here:
            assert attempt.built == (attempt.error_after is not None)
            if attempt.error_before is not None and attempt.error_after is not None:
                assert attempt.error_before == pytest.approx(before, rel=1e-4)
                if attempt.error_after < attempt.error_before:
                    better.append(attempt)
        longest = max((each.repair.count("+") for each in better), default=0)
        rivals = [each for each in better if each.repair.count("+") == longest]
        best = min(rivals, key=lambda each: each.error_after or 0.0, default=None)
        assert [each for each in here if each.accepted] == ([] if best is None else [best])
        assert all(each.reason for each in here if each is not best)
        if best is not None:
            if name not in POST_NORM:
                shrinkage *= best.alpha or 1.0
            with_it = error_of(model, removed, changes, run, judged, shrinkage)
            assert best.error_after == pytest.approx(with_it, rel=1e-4)
            assert best.reason is None


@pytest.mark.parametrize("name", FAMILIES)
def test_repairs_are_kept_where_together_they_lower_held_out_divergence_and_raise_no_loss(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    task = "masked_lm" if "Masked" in FAMILIES[name][0] else "causal_lm"
    before = {n: p.clone() for n, p in model.named_parameters()}
    repaired = repair(LayeredModel(model, path, task), batches(8), (2, 4), "auto")
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert {(a.cut, a.repair) for a in repaired.attempts} == {
        (cut, combination_name(each)) for cut in (Run(2, 3), Run(4, 5)) for each in combinations("auto")
    }
    assert (repaired.fitted_windows, repaired.judged_windows) == (24, 8)
    judged = batches(8)[6:]
    _, changes, _, _ = walked(name, (2, 4))
    variants = {"before": Variant((2, 4)), "after": Variant((2, 4), changes)}
    expected = evaluate(LayeredModel(model, path, task), judged, variants)
    assert repaired.quality is not None
    for kind, figures in expected.items():
        measured = getattr(repaired.quality, kind)
        assert measured.perplexity == pytest.approx(figures.perplexity, rel=1e-5)
        assert measured.kl == pytest.approx(figures.kl, rel=1e-4, abs=1e-8)
    # Below the dense model's loss, a lower one is chance.
    harms = {
        kind: figures.kl + max(0.0, np.log(figures.perplexity / expected["dense"].perplexity))
        for kind, figures in expected.items()
    }
    helps = expected["after"].kl < expected["before"].kl and harms["after"] < harms["before"]
    accepted = [attempt for attempt in repaired.attempts if attempt.accepted]
    assert bool(accepted) == bool(repaired.changes) == (helps and bool(changes))
    assert not repaired.changes or repaired.changes.keys() == changes.keys()
    assert all(attempt.reason for attempt in repaired.attempts if not attempt.accepted)
    not_built = [each for each in repaired.attempts if not (each.built or (each.reason or "").startswith("not tried"))]
    refused = {(attempt.repair, (attempt.reason or "").split(" is a norm, ")[-1]) for attempt in not_built}
    same = "factor and map would go into the same norm"
    if name in POST_NORM:
        assert refused == {("compensate + least_squares", same), ("compensate + refit", same)}
    elif name.startswith("gemma"):
        assert refused == {("compensate + refit", "and has its length from itself")}
    else:
        assert not refused


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_what_only_scales_the_stream_is_judged_at_the_exit(name: str) -> None:
    finder, changes, attempts, _ = walked(name, (2, 4), "compensate")
    assert [attempt.accepted for attempt in attempts] == [True, True]
    assert any(attempt.error_after > attempt.error_before for attempt in attempts)
    quality = evaluate(finder.layered, batches(8)[6:], {"before": Variant((2, 4)), "after": Variant((2, 4), changes)})
    harms = {
        kind: figures.kl + max(0.0, np.log(figures.perplexity / quality["dense"].perplexity))
        for kind, figures in quality.items()
    }
    repaired = repair(finder.layered, batches(8), (2, 4), "compensate")
    helps = quality["after"].kl < quality["before"].kl and harms["after"] < harms["before"]
    assert bool(repaired.changes) == helps == all(attempt.accepted for attempt in repaired.attempts)


def share_left(repaired: Repaired) -> float:
    """The held-out divergence with the repair, as a share of that without."""
    assert repaired.quality is not None
    assert repaired.quality.before is not None
    return repaired.quality.after.kl / repaired.quality.before.kl


def test_least_squares_undoes_a_removal_that_is_linear_in_what_the_layer_before_writes() -> None:
    model = build("llama tied")
    layers = model.model.layers
    before, removed = layers[2], layers[3]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        # The layer before reads nothing that changes what it writes, and the removed one only adds a constant.
        for layer in (before, removed):
            layer.self_attn.o_proj.weight.zero_()
        removed.mlp.down_proj.weight.zero_()
        removed.mlp.down_proj.bias.copy_(torch.randn(32, generator=generator))
    repaired = repair(LayeredModel(model, "model.layers", "causal_lm"), batches(8), (3,), "least_squares")
    assert repaired.attempts[0].accepted
    assert share_left(repaired) < 1e-3


def test_a_refit_undoes_a_removal_that_is_linear_in_what_enters_the_write_and_not_in_what_it_writes() -> None:
    model = build("llama")
    layers = model.model.layers
    before, removed = layers[2], layers[3]
    with torch.no_grad():
        # Both read the same, as neither attends; the layer before writes nothing at all, so that no map of it helps.
        for layer in (before, removed):
            layer.self_attn.o_proj.weight.zero_()
        before.mlp.down_proj.weight.zero_()
        for name in ("gate_proj", "up_proj"):
            getattr(removed.mlp, name).weight.copy_(getattr(before.mlp, name).weight)
        removed.post_attention_layernorm.weight.copy_(before.post_attention_layernorm.weight)
    mapped = repair(LayeredModel(model, "model.layers", "causal_lm"), batches(32), (3,), "least_squares")
    assert not mapped.attempts[0].accepted
    repaired = repair(LayeredModel(model, "model.layers", "causal_lm"), batches(32), (3,), "refit")
    assert repaired.attempts[0].accepted
    assert share_left(repaired) < 0.01


def test_a_repair_that_harms_is_refused() -> None:
    model = build("llama")
    with torch.no_grad():
        # Removed: a layer that only makes the stream longer. Its neighbour cannot know where, but the size is undone.
        model.model.layers[3].self_attn.o_proj.weight.zero_()
        model.model.layers[3].mlp.down_proj.weight.zero_()
    repaired = repair(LayeredModel(model, "model.layers", "causal_lm"), batches(8), (3,), "auto")
    # Nothing was lost, so nothing can be better.
    assert [attempt.accepted for attempt in repaired.attempts] == [False] * 5
    assert repaired.changes == {}


@pytest.mark.parametrize("noise", [0.0, 10.0])
def test_repairs_that_bring_the_stream_nearer_and_still_harm_are_dropped_together(
    noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("llama tied")
    layers = model.model.layers
    with torch.no_grad():
        # One channel is a hundred times larger than all others, and nothing reads it.
        model.model.embed_tokens.weight[:, 0] = 1000
        layers[3].mlp.down_proj.bias[0] = 300
        norms = [norm for layer in layers for norm in (layer.input_layernorm, layer.post_attention_layernorm)]
        for norm in [*norms, model.model.norm]:
            norm.weight.mul_(100)
            norm.weight[0] = 0

    class Unread:
        """Makes up for the large channel, and adds noise to all others at one of the cuts."""

        def __init__(self, cut: Cut) -> None:
            self.cut, self.missing = cut, torch.zeros(32, dtype=torch.float64)

        def add(self, _batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
            assert not held_out
            self.missing = (streams.target - streams.pruned).mean(0)

        def build(self, _shrinkage: float) -> Candidate:
            shift = self.missing.clone()
            if self.cut.run.start == 3:
                shift[1:] += noise * torch.randn(31, generator=torch.Generator().manual_seed(0))
            return Candidate(fold(self.cut.model, self.cut.writes_before().modules[0], torch.tensor(1.0), shift))

    monkeypatch.setitem(REPAIRS, "unread", CutRepair(Unread))
    layered = LayeredModel(model, "model.layers", "causal_lm")
    walk = RepairWalk(
        WriteFinder(layered, batches(1)[0]), batches(8), [Request((1, 3), frozenset({6, 7}))], combinations("unread")
    )
    changes, attempts, _ = walk.run(silent_phase(), judges_unrepaired=True)[0]
    assert [attempt.accepted for attempt in attempts] == [True, True]
    variants = {"before": Variant((1, 3)), "after": Variant((1, 3), changes)}
    quality = evaluate(layered, batches(8)[6:], variants)
    harms = {kind: quality[kind].kl + np.log(quality[kind].perplexity) for kind in variants}
    assert (harms["after"] < harms["before"]) == (noise == 0)

    repaired = repair(layered, batches(8), (1, 3), "unread")
    assert [attempt.accepted for attempt in repaired.attempts] == [noise == 0] * 2
    assert bool(repaired.changes) == (noise == 0)
    if noise:
        assert all("all repairs together" in (attempt.reason or "") for attempt in repaired.attempts)
        assert all(attempt.error_after < attempt.error_before for attempt in repaired.attempts)


def test_a_layer_that_does_more_than_add_is_refused() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states * self.inner(hidden_states)

    class Rectified(Gated):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return torch.relu(hidden_states + self.inner(hidden_states))

    class Doubtful(Gated):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return hidden_states.sin() + self.inner(hidden_states)

    call = calls_of_hidden(torch.randn(2, 5, 8))
    for kind, message in ((Gated, "no module"), (Rectified, "no module"), (Doubtful, "more to the residual stream")):
        with pytest.raises(CannotFold, match=message):
            find_writes(kind(), "layer", call)


def calls_of_hidden(hidden: Tensor) -> Any:
    return LayerCall((hidden,), {})


@pytest.mark.parametrize("sizes", [[4], [1, 1], [8, 8, 3], [2] * 9])
def test_a_quarter_of_the_windows_judges_and_none_is_lost(sizes: list[int]) -> None:
    numbers = iter(range(100))
    rows = [torch.tensor([[next(numbers)] for _ in range(size)]) for size in sizes]
    fitted, judged = split([Batch({"input_ids": ids}, ids) for ids in rows])
    everything = [int(i) for part in (fitted, judged) for batch in part for i in batch.labels.flatten()]
    assert sorted(everything) == list(range(sum(sizes)))
    assert sum(len(batch.labels) for batch in judged) == max(1, sum(sizes) // 4)


def test_one_window_cannot_be_fitted_and_judged_on() -> None:
    model = build("llama")
    repaired = repair(LayeredModel(model, "model.layers", "causal_lm"), [batches(1)[0].rows(0, 1)], (2,), "auto")
    assert repaired.changes == {}
    assert all("cannot be both" in attempt.reason for attempt in repaired.attempts)


@pytest.mark.parametrize(
    ("class_name", "changes", "reason"),
    [
        # Reads the stream without a norm, so a factor is not undone.
        ("Olmo2ForCausalLM", {}, "does not undo a factor"),
    ],
)
def test_a_family_without_a_form_is_refused_with_the_reason(
    class_name: str, changes: dict[str, Any], reason: str
) -> None:
    torch.manual_seed(0)
    stock = getattr(transformers, class_name)
    model = stock(stock.config_class(**{**GROUPED, **changes})).eval()
    repaired = repair(LayeredModel(model, "model.layers", "causal_lm"), batches(8), (2, 3), "compensate")
    assert repaired.changes == {}
    assert [reason in attempt.reason for attempt in repaired.attempts] == [True]


def test_a_factor_that_a_later_weight_cannot_hold_drops_the_repair_and_ends_no_job() -> None:
    model = build("gpt2").half()
    last = model.transformer.h[5].mlp
    with torch.no_grad():
        # A channel that is always zero, so that its weight, near the largest of float16, changes nothing.
        last.c_fc.weight[:, 0], last.c_fc.bias[0] = 0, 0
        last.c_proj.weight[0, 0] = 65_000
    repaired = repair(LayeredModel(model, "transformer.h", "causal_lm"), batches(8), (4,), "compensate")
    (attempt,) = repaired.attempts
    assert attempt.alpha is not None
    assert 65_000 / attempt.alpha > torch.finfo(torch.float16).max
    assert (attempt.accepted, repaired.changes) == (False, {})
    assert "layer 5 cannot take the factor" in str(attempt.reason)
    assert repaired.quality is not None
    assert repaired.quality.after == repaired.quality.before


def test_what_was_fitted_is_freed_at_once() -> None:
    model = build("llama")
    layers = len(model.model.layers)
    gc.collect()
    gc.disable()
    try:
        # Nothing follows this cut, so that some repairs are refused and others are fitted.
        repaired = repair(
            LayeredModel(model, "model.layers", "causal_lm"), batches(8), (layers - 2, layers - 1), "auto"
        )
        fits = [each for each in gc.get_objects() if type(each) is LinearFit]
    finally:
        gc.enable()
    assert {attempt.built for attempt in repaired.attempts} == {True, False}
    assert fits == []
