import copy
import itertools
import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sglp_core.architectures import CifarResNetConfig, CifarResNetForImageClassification
from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.execution.weight_changes import apply
from sglp_core.options import Target
from sglp_core.planning.harm import SAMPLES_AT_ONCE, HarmMeter, harm_of
from sglp_core.planning.local_search import refine
from sglp_core.planning.plan import Plan
from sglp_core.planning.proposals import select
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.repair.batch_norm import estimate_statistics
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.tasks import Batch

LAYERS = 8
CONFIG = LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
)
FREE = range(1, LAYERS - 1)


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


@pytest.fixture
def batches() -> list[Batch]:
    ids = torch.randint(0, 50, (4, 3, 12), generator=torch.Generator().manual_seed(1))
    return [Batch({"input_ids": rows, "attention_mask": torch.ones_like(rows)}, rows) for rows in ids]


def silence(model: LlamaForCausalLM, *harmless: int) -> None:
    """A layer that adds nothing to the residual stream can go without any harm."""
    for layer in harmless:
        for projection in (model.model.layers[layer].self_attn.o_proj, model.model.layers[layer].mlp.down_proj):
            torch.nn.init.zeros_(projection.weight)


def believing(model: LlamaForCausalLM, batches: list[Batch]) -> list[Batch]:
    """Labels that are what the dense model says, so that no other model does better on them."""
    model.lm_head.weight.data *= 20
    found = []
    for batch in batches:
        said = model(**batch.inputs).logits.argmax(-1)
        found.append(Batch(batch.inputs, torch.cat([said[:, :1], said[:, :-1]], 1)))
    return found


def meter_of(model: LlamaForCausalLM, batches: list[Batch]) -> HarmMeter:
    return HarmMeter(LayeredModel(model, "model.layers", "causal_lm"), batches)


def test_harm_is_divergence_plus_rise_of_the_loss_over_the_windows_tried(
    model: LlamaForCausalLM, batches: list[Batch]
) -> None:
    meter = meter_of(model, batches)
    harms = [meter([(2, 4)])[2, 4] for _ in range(3)]
    parts = [part for batch in batches for part in batch.split(1)]
    expected = []
    for part in parts[:3]:
        found = evaluate(LayeredModel(model, "model.layers", "causal_lm"), [part], {"it": Variant((2, 4))})
        expected.append(found["it"].kl + math.log(found["it"].perplexity / found["dense"].perplexity))
    assert harms == pytest.approx(expected)
    assert meter.mean((2, 4)) == pytest.approx(np.mean(expected))
    assert (meter.spent, meter.parts) == (3, 12)


@pytest.mark.parametrize("loud", [0.01, 10.0])
def test_where_batch_norms_may_be_estimated_anew_the_better_statistics_of_a_set_count(loud: float) -> None:
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(depths=[4], hidden_sizes=[4], num_labels=3)).eval()
    # Sure of what it says, so that nothing says it better.
    torch.nn.init.normal_(model.linear.weight, std=5)
    path = find_stack(model)
    layers = layers_of(model, path)
    for norm in [m for layer in layers[1:3] for m in layer.modules() if isinstance(m, torch.nn.BatchNorm2d)]:
        norm.weight.data *= loud
    images = torch.randn(12, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    batch = Batch({"pixel_values": images}, torch.arange(12) % 3)
    if loud > 1:
        # The dense network knows the images, so what a loud block adds is in the statistics of those behind it. One
        # that does not know them is changed more by new statistics than by the loss of quiet blocks.
        apply(model, estimate_statistics(LayeredModel(model, path, "image_classification"), (), [batch]))
    batch = Batch({"pixel_values": images}, model(pixel_values=images).logits.argmax(-1))
    estimated = HarmMeter(LayeredModel(model, path, "image_classification"), [batch], reestimate_batch_norms=True)(
        [(1, 2)]
    )[1, 2]

    pruned = copy.deepcopy(model)
    remove_layers(pruned, path, (1, 2))
    for module in pruned.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    pruned(images)
    with torch.no_grad():
        dense, after = model(images).logits, pruned.eval()(images).logits
    divergence = torch.nn.functional.kl_div(
        after.log_softmax(-1), dense.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    rise = torch.nn.functional.cross_entropy(after, batch.labels) - torch.nn.functional.cross_entropy(
        dense, batch.labels
    )
    re_estimated = float(divergence + rise)
    as_they_were = HarmMeter(LayeredModel(model, path, "image_classification"), [batch])([(1, 2)])[1, 2]
    assert as_they_were != pytest.approx(re_estimated, abs=1e-3)
    assert (re_estimated < as_they_were) == (loud > 1)
    assert estimated == pytest.approx(min(re_estimated, as_they_were), abs=1e-5)


def test_images_are_judged_many_at_once_and_windows_one_at_a_time() -> None:
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(depths=[4], hidden_sizes=[4], num_labels=3)).eval()
    images = torch.randn(150, 3, 8, 8)
    parts = [Batch({"pixel_values": some}, torch.zeros(len(some), dtype=torch.long)) for some in images.split(8)]
    meter = HarmMeter(LayeredModel(model, find_stack(model), "image_classification"), parts)
    assert meter.parts == math.ceil(150 / SAMPLES_AT_ONCE)
    # Every image is judged once: the mean over all parts of equal size is that of all images together.
    whole = evaluate(LayeredModel(model, find_stack(model), "image_classification"), parts[:16], {"it": Variant((1,))})
    assert meter([(1,)], 2)[1,] == pytest.approx(harm_of(whole["dense"], whole["it"]), abs=1e-6)


def test_the_proposal_that_harms_least_is_first(model: LlamaForCausalLM, batches: list[Batch]) -> None:
    silence(model, 2, 4)
    batches = believing(model, batches)
    sets = [(1, 2), (1, 3), (2, 4), (3, 4), (1, 4)]
    plans = {(str(s),): Plan(Target("layers", 2 / LAYERS), s, 2 / LAYERS, 4 / LAYERS, 2 / LAYERS) for s in sets}
    found = select(meter_of(model, batches), plans)
    assert found[0].plan.removed_layers == (2, 4)
    assert found[0].harm == pytest.approx(0, abs=1e-5)
    assert [p.trials for p in found] == [2] * 5
    assert [p.harm for p in found] == sorted(p.harm for p in found)


@pytest.mark.parametrize("start", list(itertools.combinations(FREE, 3))[::6])
def test_swaps_find_the_layers_that_do_nothing(
    model: LlamaForCausalLM, batches: list[Batch], start: tuple[int, ...]
) -> None:
    silence(model, 2, 3, 5)
    meter = meter_of(model, believing(model, batches))
    assert refine(meter, start, FREE, lambda removed: len(removed) >= 3, 240) == (2, 3, 5)


def test_more_than_needed_is_put_back(model: LlamaForCausalLM, batches: list[Batch]) -> None:
    silence(model, 2)
    meter = meter_of(model, believing(model, batches))
    assert refine(meter, (2, 4), FREE, lambda removed: len(removed) >= 1, 240) == (2,)


def test_refining_stays_within_its_budget_and_what_is_allowed(model: LlamaForCausalLM, batches: list[Batch]) -> None:
    silence(model, 2, 3)
    batches = believing(model, batches)
    poor = meter_of(model, batches)
    assert refine(poor, (4, 5), FREE, lambda removed: len(removed) >= 2, 30) == (4, 5)
    assert poor.spent == 0
    rich = meter_of(model, batches)
    assert refine(rich, (2, 5), FREE, lambda removed: len(removed) >= 2 and 3 not in removed, 240) != (2, 3)
    assert rich.spent <= 240


def test_a_swap_that_was_only_lucky_is_not_made(model: LlamaForCausalLM, batches: list[Batch]) -> None:
    """Swaps are estimated on two windows and chosen on four; these say what the model without layer 3 says.

    The next four, which confirm, do not.
    """
    silence(model, 2)
    for projection in (model.model.layers[3].self_attn.o_proj, model.model.layers[3].mlp.down_proj):
        projection.weight.data *= 30
    truthful = [part for batch in believing(model, batches) for part in batch.split(1)]
    with bypassed(model.model.layers, (3,)):
        said = [model(**part.inputs).logits.argmax(-1) for part in truthful[:6]]
    lucky = [
        Batch(part.inputs, torch.cat([ids[:, :1], ids[:, :-1]], 1)) for part, ids in zip(truthful, said, strict=False)
    ]
    assert meter_of(model, lucky)([(2,), (3,)], 6)[3,] < 0
    meter = meter_of(model, [*lucky, *truthful[6:]])
    assert refine(meter, (2,), FREE, lambda removed: len(removed) >= 1, 80) == (2,)
    assert meter.trials[3,] == 4 + 4
