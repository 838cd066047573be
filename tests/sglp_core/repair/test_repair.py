"""Whole repairs: the streams at a cut, what is accepted, what is refused and why."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.bypass import bypassed
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.repair.named_repairs import combination_name, combinations
from sglp_core.repair.repair import repair
from sglp_core.repair.residual_stream import calls_of, cut_streams
from sglp_core.repair.residual_writes import CannotFold, LayerCall
from sglp_core.repair.write_finder import find_writes
from sglp_core.structure.layer_stack import find_stack
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch, split
from tests.sglp_core.repair.repair_models import FAMILIES, GROUPED, POST_NORM, batches, build


@pytest.mark.parametrize("removed", [(4,), (1, 4)])
def test_the_stream_at_a_cut_is_what_the_dense_and_the_pruned_model_say(removed: tuple[int, ...]) -> None:
    model = build("gpt2")
    batch, layers = batches(1)[0], model.transformer.h
    write = find_writes(
        layers[3], "transformer.h.3", calls_of(LayeredModel(model, "transformer.h", "causal_lm"), batch)[3]
    ).modules[0]
    streams = cut_streams(
        LayeredModel(model, "transformer.h", "causal_lm"), batch, Variant(removed, {}), Run(4, 5), write
    )
    with torch.no_grad():
        dense = model(**batch.inputs, output_hidden_states=True).hidden_states
        kept: list[Tensor] = []
        with bypassed(layers, removed):
            handles = [
                layers[3].register_forward_hook(lambda _m, _a, output: kept.append(output)),
                layers[3].mlp.register_forward_hook(lambda _m, _a, output: kept.append(output)),
            ]
            model(**batch.inputs)
    for handle in handles:
        handle.remove()
    mask = batch.inputs["attention_mask"].bool()
    assert torch.equal(streams.target, dense[5][mask])
    assert torch.allclose(streams.written, kept[0][mask])
    assert torch.allclose(streams.pruned, (kept[1][0] if isinstance(kept[1], tuple) else kept[1])[mask])
    assert streams.first.sum() == 4
    assert mask.sum() == len(streams.first)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_accepted_repair_lowers_held_out_divergence_and_raises_no_loss(name: str) -> None:
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
    variants = {"pruned": Variant((2, 4)), "repaired": Variant((2, 4), repaired.changes)}
    quality = evaluate(LayeredModel(model, path, task), judged, variants)
    for attempt in repaired.attempts:
        if attempt.accepted:
            assert attempt.reason is None
            assert attempt.loss_after <= max(attempt.loss_before, np.log(quality["dense"].perplexity))
            assert attempt.kl_after < attempt.kl_before
        else:
            assert attempt.reason
    accepted = [attempt for attempt in repaired.attempts if attempt.accepted]
    assert bool(accepted) == bool(repaired.changes)
    if accepted:
        assert quality["repaired"].kl == pytest.approx(accepted[-1].kl_after)
        assert quality["repaired"].kl < quality["pruned"].kl
    first = next(attempt for attempt in repaired.attempts if attempt.loss_before is not None)
    assert np.log(quality["pruned"].perplexity) == pytest.approx(first.loss_before)
    not_built = [attempt for attempt in repaired.attempts if attempt.loss_before is None]
    refused = {(attempt.repair, (attempt.reason or "").split(" is a norm, ")[-1]) for attempt in not_built}
    same = "factor and map would go into the same norm"
    if name in POST_NORM:
        assert refused == {("compensate + least_squares", same), ("compensate + refit", same)}
    elif name.startswith("gemma"):
        assert refused == {("compensate + refit", "and has its length from itself")}
    else:
        assert not refused


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
    assert repaired.attempts[0].kl_after < 1e-3 * repaired.attempts[0].kl_before


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
    assert repaired.attempts[0].kl_after < 0.01 * repaired.attempts[0].kl_before


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
