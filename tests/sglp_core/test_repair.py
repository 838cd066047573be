"""What a repair folds into the weights, against explicit maps at the cut and plain linear algebra."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from sglp_core.compensate import fold_growth, scaled
from sglp_core.evaluation import evaluate
from sglp_core.folding import fold, fold_change
from sglp_core.forms import Forms
from sglp_core.layers import find_stack, layers_of
from sglp_core.least_squares import ElementwiseFit, LinearFit
from sglp_core.objectives import Batch
from sglp_core.refitting import MOST_FEATURES, RIDGES, Refit
from sglp_core.repair import KINDS, repair, runs_of, split
from sglp_core.residual import NoForm, find_writes
from sglp_core.streams import calls_of, cut_streams
from sglp_core.surgery import bypassed
from sglp_core.through_norms import RefitThroughNorm
from sglp_core.weights import swapped

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
# Class, configuration, the writes of a layer (last first), the form and the offset of the last one.
PRE_NORM = {
    "llama": ("LlamaForCausalLM", {**GROUPED, "rms_norm_eps": 1e-12}, ["mlp.down_proj", "self_attn.o_proj"]),
    "llama tied": (
        "LlamaForCausalLM",
        {**GROUPED, "rms_norm_eps": 1e-12, "tie_word_embeddings": True, "mlp_bias": True},
        ["mlp.down_proj", "self_attn.o_proj"],
    ),
    "qwen2": ("Qwen2ForCausalLM", {**GROUPED, "rms_norm_eps": 1e-12}, ["mlp.down_proj", "self_attn.o_proj"]),
    "phi3": ("Phi3ForCausalLM", {**GROUPED, "rms_norm_eps": 1e-12}, ["mlp.down_proj", "self_attn.o_proj"]),
    "granite": (
        "GraniteForCausalLM",
        {**GROUPED, "rms_norm_eps": 1e-12, "residual_multiplier": 0.3},
        ["mlp.down_proj", "self_attn.o_proj"],
    ),
    "gemma2": (
        "Gemma2ForCausalLM",
        {**GROUPED, "rms_norm_eps": 1e-12},
        ["post_feedforward_layernorm", "post_attention_layernorm"],
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        {**GROUPED, "rms_norm_eps": 1e-12},
        ["post_feedforward_layernorm", "post_attention_layernorm"],
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 6, "n_head": 4, "layer_norm_epsilon": 1e-12},
        ["mlp.c_proj", "attn.c_proj"],
    ),
    "opt": ("OPTForCausalLM", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}, ["fc2", "self_attn.out_proj"]),
    "bloom": (
        "BloomForCausalLM",
        {"vocab_size": 99, "hidden_size": 32, "n_layer": 6, "n_head": 4, "layer_norm_epsilon": 1e-12},
        ["mlp.dense_4h_to_h", "self_attention.dense"],
    ),
    "falcon": (
        "FalconForCausalLM",
        {**SMALL, "layer_norm_epsilon": 1e-12},
        ["mlp.dense_4h_to_h", "self_attention.dense"],
    ),
    "gpt-neox": ("GPTNeoXForCausalLM", {**SMALL, "layer_norm_eps": 1e-12}, ["mlp.dense_4h_to_h", "attention.dense"]),
}
POST_NORM = {
    "bert": ("BertForMaskedLM", SMALL, "output.LayerNorm"),
    "distilbert": (
        "DistilBertForMaskedLM",
        {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 6, "n_heads": 4},
        "output_layer_norm",
    ),
    "opt-350m": (
        "OPTForCausalLM",
        {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32, "do_layer_norm_before": False},
        "final_layer_norm",
    ),
}
FAMILIES = {name: case[:2] for name, case in (PRE_NORM | POST_NORM).items()}


def build(name: str) -> Any:
    """A random model in float64, its layers far from idle and with norms and biases that are not trivial."""
    torch.manual_seed(0)
    class_name, config = FAMILIES[name]
    stock = getattr(transformers, class_name)
    model = stock(stock.config_class(**config)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, dtype=torch.float64)
            parameter.add_(noise * (0.3 if parameter.ndim == 1 else 3 * parameter.std()))
    return model


def batches(count: int, name: str = "") -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        ids = torch.randint(5, 99, (4, 24), generator=generator)
        mask = torch.ones_like(ids)
        mask[0, 18:] = 0
        found.append(Batch({"input_ids": ids, "attention_mask": mask}, ids.masked_fill(mask == 0, -100)))
    return found


def logits(model: Any, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(**batch.inputs).logits


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", PRE_NORM)
def test_the_writes_of_a_layer_are_found(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    writes = Forms(model, path, batches(1)[0]).writes(2)
    assert [w.module for w in writes.modules] == [f"{path}.2.{module}" for module in PRE_NORM[name][2]]
    assert not writes.whole
    assert [w.gain for w in writes.modules] == pytest.approx([0.3 if name == "granite" else 1] * 2)
    assert {w.offset for w in writes.modules} == {1.0 if name.startswith("gemma") else 0.0}


@pytest.mark.parametrize("name", POST_NORM)
def test_a_post_norm_is_the_whole_output(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    writes = Forms(model, path, batches(1)[0]).writes(2)
    assert ([w.module for w in writes.modules], writes.whole) == ([f"{path}.2.{POST_NORM[name][2]}"], True)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("alpha", [0.5, 1.7])
def test_a_folded_growth_equals_the_same_factor_at_the_cut(name: str, alpha: float) -> None:
    model = build(name)
    path = find_stack(model)
    layers, batch = layers_of(model, path), batches(1)[0]
    forms = Forms(model, path, batch)
    new = fold_growth(model, alpha, forms.writes(1), [forms.writes(4), forms.writes(5)])
    with bypassed(layers, (2, 3)):
        without = logits(model, batch)
        with scaled(layers[3], alpha):
            expected = logits(model, batch)
        with swapped(model, new):
            found = logits(model, batch)
    assert apart(without, expected) > 1e-3
    assert apart(found, expected) < 1e-5
    assert not any("embed" in changed or "head" in changed for changed in new)


def test_without_a_layer_behind_or_before_there_is_nothing_to_fold_into() -> None:
    model = build("llama")
    with pytest.raises(NoForm, match="no layer follows"):
        fold_growth(model, 2.0, None, [])
    bert = build("bert")
    forms = Forms(bert, find_stack(bert), batches(1)[0])
    with pytest.raises(NoForm, match="norm before the cut"):
        fold_growth(bert, 2.0, None, [forms.writes(1)])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folded_map_equals_the_same_map_of_what_the_module_writes(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    batch = batches(1)[0]
    write = Forms(model, path, batch).writes(2).modules[0]
    module = model.get_submodule(write.module)
    scale = torch.randn((32,) if write.form == "norm" else (32, 32), dtype=torch.float64)
    shift = torch.randn(32, dtype=torch.float64) if getattr(module, "bias", None) is not None else None

    def mapped(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        moved = output * scale if scale.ndim == 1 else output @ scale
        return moved if shift is None else moved + shift / write.gain

    handle = module.register_forward_hook(mapped)
    expected = logits(model, batch)
    handle.remove()
    before = logits(model, batch)
    with swapped(model, fold(model, write, scale, shift)):
        found = logits(model, batch)
    assert apart(before, expected) > 1e-3
    # Norms that compute in float32, whatever they are given, leave 1e-7.
    assert apart(found, expected) < 1e-6
    assert torch.equal(logits(model, batch), before)


@pytest.mark.parametrize("alpha", [1.0, 1.7])
@pytest.mark.parametrize("shift", [False, True])
def test_least_squares_equals_weighted_ridge_regression_on_all_rows_at_once(shift: bool, alpha: float) -> None:
    generator = np.random.default_rng(0)
    written, handed_on, wanted = (generator.normal(size=(300, 8)) for _ in range(3))
    wanted[0] *= 1e4
    fit = LinearFit(8, 8, shift)
    for rows in np.array_split(np.arange(300), 7):
        fit.add(*(torch.from_numpy(each[rows]) for each in (written, handed_on, wanted)))
    change, constant = fit.solve(0.1, alpha)
    found = np.eye(8) + change.numpy()

    root = 1 / np.linalg.norm(wanted, axis=1, keepdims=True)
    penalty = 0.1 * np.mean(np.sum((root * written) ** 2, 0))
    features = np.hstack([written, np.ones((300, 1))]) if shift else written
    regular = np.sqrt(penalty) * np.eye(8, features.shape[1])
    # T is drawn to the identity: its rows are those of a regression whose last equations say so.
    left = np.vstack([root * features, regular])
    right = np.vstack([root * (wanted / alpha - handed_on + written), np.sqrt(penalty) * np.eye(8)])
    expected = np.linalg.lstsq(left, right, rcond=None)[0]
    np.testing.assert_allclose(found, expected[:8], rtol=1e-8, atol=1e-10)
    assert (constant is None) == (not shift)
    if shift:
        np.testing.assert_allclose(constant, expected[8], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("noise", [0.01, 20.0])
def test_the_ridge_of_a_refit_is_the_one_that_errs_least_on_what_was_not_fitted(noise: float) -> None:
    generator = np.random.default_rng(0)
    truth = generator.normal(size=(12, 5))
    parts = []
    for rows in (30, 40):
        entered, handed_on = generator.normal(size=(rows, 12)), generator.normal(size=(rows, 5))
        parts.append((entered, handed_on, handed_on + entered @ truth + noise * generator.normal(size=(rows, 5))))
    refit = Refit(12, 5, shift=False)
    for part, held_out in zip(parts, (False, True), strict=True):
        refit.add(*(torch.from_numpy(each) for each in part), held_out=held_out)
    found, _ = refit.solve()

    def fitted(ridge: float) -> np.ndarray:
        entered, handed_on, wanted = parts[0]
        root = 1 / np.linalg.norm(wanted, axis=1, keepdims=True)
        penalty = np.sqrt(ridge * np.mean(np.sum((root * entered) ** 2, 0)))
        left = np.vstack([root * entered, penalty * np.eye(12)])
        right = np.vstack([root * (wanted - handed_on), np.zeros((12, 5))])
        return np.linalg.lstsq(left, right, rcond=None)[0]

    def error(change: np.ndarray) -> float:
        entered, handed_on, wanted = parts[1]
        return float(np.sum(np.sum((handed_on + entered @ change - wanted) ** 2, 1) / np.sum(wanted**2, 1)))

    best = min(RIDGES, key=lambda ridge: error(fitted(ridge)))
    assert best == (RIDGES[0] if noise < 1 else RIDGES[-1])
    np.testing.assert_allclose(found, fitted(best), rtol=1e-7, atol=1e-9)


def test_a_write_of_too_many_channels_is_not_fitted_anew() -> None:
    with pytest.raises(NoForm, match="channels enter"):
        Refit(MOST_FEATURES + 1, 8, shift=False)


@pytest.mark.parametrize("name", PRE_NORM)
def test_a_changed_weight_adds_what_was_fitted(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    batch = batches(1)[0]
    write = Forms(model, path, batch).writes(2).modules[0]
    module = model.get_submodule(write.module)
    if write.form == "norm":
        with pytest.raises(NoForm, match="mixes no channels"):
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
        found = logits(model, batch)
    assert apart(logits(model, batch), expected) > 1e-3
    assert apart(found, expected) < 1e-6


@pytest.mark.parametrize("name", [*POST_NORM, "gemma2", "gemma3"])
def test_a_projection_is_fitted_through_the_norm_behind_it(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    forms = Forms(model, path, batches(1)[0])
    write = forms.writes(2).modules[0]
    inner = forms.inside(2, write)
    last = {"bert": "output.dense", "distilbert": "ffn.lin2", "opt-350m": "fc2"}.get(name, "mlp.down_proj")
    assert inner.module == f"{path}.2.{last}"

    def streams(batch: Batch, through: Any) -> Any:
        return cut_streams(model, forms.layers, batch, (3,), (3, 3), {}, through)

    weight = model.get_submodule(inner.module).weight
    other = {f"{inner.module}.weight": weight.data + torch.randn_like(weight) * weight.std() / 2}
    refit = RefitThroughNorm(model, write, inner)
    pairs = []
    for batch, held_out in zip(batches(24), [False] * 16 + [True] * 8, strict=True):
        with swapped(model, other):
            wanted = streams(batch, write).given
        here = streams(batch, write)
        entered = streams(batch, inner).entered
        refit.add(entered, here.entered, here.written, here.given, wanted, held_out=held_out)
        pairs.append((batch, here.given, wanted))
    apart_before = apart_after = 0.0
    with swapped(model, refit.changes()):
        for batch, given, wanted in pairs[16:]:
            apart_before += float((given - wanted).square().sum())
            apart_after += float((streams(batch, write).given - wanted).square().sum())
    assert apart_after < 0.05 * apart_before


@pytest.mark.parametrize("alpha", [1.0, 1.7])
@pytest.mark.parametrize("shift", [False, True])
def test_elementwise_least_squares_equals_a_regression_of_each_channel(shift: bool, alpha: float) -> None:
    generator = np.random.default_rng(0)
    written, handed_on, wanted = (generator.normal(size=(300, 8)) for _ in range(3))
    fit = ElementwiseFit(8, shift)
    for rows in np.array_split(np.arange(300), 7):
        fit.add(*(torch.from_numpy(each[rows]) for each in (written, handed_on, wanted)))
    found, constant = fit.solve(0.1, alpha)

    root = 1 / np.linalg.norm(wanted, axis=1)
    for channel in range(8):
        column = root * written[:, channel]
        regular = np.sqrt(0.1 * column @ column)
        left = np.stack([column, root if shift else np.zeros(300)], 1)
        right = root * (wanted / alpha - handed_on + written)[:, channel]
        solution = np.linalg.lstsq(np.vstack([left, [regular, 0]]), np.append(right, regular), rcond=None)[0]
        assert found[channel] == pytest.approx(solution[0], rel=1e-8)
        if shift:
            assert constant is not None
            assert constant[channel] == pytest.approx(solution[1], rel=1e-8)


@pytest.mark.parametrize("removed", [(4,), (1, 4)])
def test_the_stream_at_a_cut_is_what_the_dense_and_the_pruned_model_say(removed: tuple[int, ...]) -> None:
    model = build("gpt2")
    batch, layers = batches(1)[0], model.transformer.h
    write = find_writes(layers[3], "transformer.h.3", calls_of(model, layers, batch)[3]).modules[0]
    streams = cut_streams(model, layers, batch, removed, (4, 4), {}, write)
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
    assert torch.equal(streams.wanted, dense[5][mask])
    assert torch.allclose(streams.written, kept[0][mask])
    assert torch.allclose(streams.given, (kept[1][0] if isinstance(kept[1], tuple) else kept[1])[mask])
    assert streams.first.sum() == 4
    assert mask.sum() == len(streams.first)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_accepted_repair_lowers_held_out_divergence_and_raises_no_loss(name: str) -> None:
    model = build(name)
    path = find_stack(model)
    task = "masked_lm" if "Masked" in FAMILIES[name][0] else "causal_lm"
    before = {n: p.clone() for n, p in model.named_parameters()}
    found = repair(model, path, batches(8), task, (2, 4), "auto")
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert {(a.cut, a.kind) for a in found.attempts} == {
        (cut, kind) for cut in ((2, 2), (4, 4)) for kind in KINDS["auto"]
    }
    assert (found.fitted_windows, found.judged_windows) == (24, 8)
    judged = batches(8)[6:]
    variants = {"pruned": (2, 4), "repaired": (2, 4)}
    quality = evaluate(model, layers_of(model, path), judged, task, variants, weights={"repaired": found.changes})
    for attempt in found.attempts:
        if attempt.accepted:
            assert attempt.reason is None
            assert attempt.loss_after <= max(attempt.loss_before, np.log(quality["dense"].perplexity))
            assert attempt.kl_after < attempt.kl_before
        else:
            assert attempt.reason
    accepted = [attempt for attempt in found.attempts if attempt.accepted]
    assert bool(accepted) == bool(found.changes)
    if accepted:
        assert quality["repaired"].kl == pytest.approx(accepted[-1].kl_after)
        assert quality["repaired"].kl < quality["pruned"].kl
    first = next(attempt for attempt in found.attempts if attempt.loss_before is not None)
    assert np.log(quality["pruned"].perplexity) == pytest.approx(first.loss_before)
    refused = {(a.kind, (a.reason or "").split(" is a norm, ")[-1]) for a in found.attempts if a.loss_before is None}
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
    found = repair(model, "model.layers", batches(8), "causal_lm", (3,), "least_squares")
    assert found.attempts[0].accepted
    assert found.attempts[0].kl_after < 1e-3 * found.attempts[0].kl_before


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
    mapped = repair(model, "model.layers", batches(32), "causal_lm", (3,), "least_squares")
    assert not mapped.attempts[0].accepted
    found = repair(model, "model.layers", batches(32), "causal_lm", (3,), "refit")
    assert found.attempts[0].accepted
    assert found.attempts[0].kl_after < 0.01 * found.attempts[0].kl_before


def test_a_repair_that_harms_is_refused() -> None:
    model = build("llama")
    with torch.no_grad():
        # Removed: a layer that only makes the stream longer. Its neighbour cannot know where, but the size is undone.
        model.model.layers[3].self_attn.o_proj.weight.zero_()
        model.model.layers[3].mlp.down_proj.weight.zero_()
    found = repair(model, "model.layers", batches(8), "causal_lm", (3,), "auto")
    # Nothing was lost, so nothing can be better.
    assert [attempt.accepted for attempt in found.attempts] == [False] * 5
    assert found.changes == {}


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
        with pytest.raises(NoForm, match=message):
            find_writes(kind(), "layer", call)


def calls_of_hidden(hidden: Tensor) -> Any:
    from sglp_core.residual import Call

    return Call((hidden,), {})


def test_runs_are_neighbours() -> None:
    assert runs_of((7, 2, 3, 4, 9)) == [(2, 4), (7, 7), (9, 9)]


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
    found = repair(model, "model.layers", [batches(1)[0].rows(0, 1)], "causal_lm", (2,), "auto")
    assert found.changes == {}
    assert all("cannot be both" in attempt.reason for attempt in found.attempts)


@pytest.mark.parametrize(
    ("class_name", "changes", "reason"),
    [
        # Experts: their mixture is no module's output, and their kernels know no float64.
        ("MixtralForCausalLM", {"num_local_experts": 4}, "cannot be probed"),
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
    found = repair(model, "model.layers", batches(8), "causal_lm", (2, 3), "compensate")
    assert found.changes == {}
    assert [reason in attempt.reason for attempt in found.attempts] == [True]
