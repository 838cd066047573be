"""Variants that go through the layers together must give what the whole model gives with hooks, one after the other."""

import pytest
import torch
import transformers
from torch import Tensor, nn

from sglp_core.evaluation.logits import difference
from sglp_core.execution import variants as execution_variants
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import Trial, logits_of_variants
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.execution.weight_changes import swapped
from sglp_core.progress import silent_phase
from sglp_core.structure.layer_stack import find_stack
from sglp_core.tasks import Batch, task_of
from tests.round_trip.models import CASES, HYBRIDS

# Families whose layers leave something for each other, or change hidden states between them.
WHOLE = {"Gemma3nForCausalLM", "Zamba2ForCausalLM"}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", [*CASES, *HYBRIDS])
@torch.no_grad()
def test_variants_together_equal_hooks_on_the_whole_model(name: str, padded: bool) -> None:
    stock = getattr(transformers, name)
    torch.manual_seed(0)
    model = stock(stock.config_class(**(CASES | HYBRIDS)[name])).eval()
    layered = LayeredModel(model, find_stack(model), task_of(stock, model.config))
    assert (layered.layerwise is None) == (name in WHOLE or not isinstance(layered.path, str))
    batches = [batch(model, rows, padded) for rows in (3, 1)]
    removed = [(), (0,), (2, 5), (2, 5, 6), (4, 5, 6, 7)]
    variants = [Variant(each) for each in removed]
    variants += [Variant(each, changed_in(model, layered.layers[index])) for index in (0, 3, 7) for each in removed[:4]]
    for number, (piece,) in enumerate(logits_of_variants(layered, batches, variants, silent_phase())):
        for variant, found in zip(variants, piece.logits, strict=True):
            with bypassed(layered.layers, variant.removed), swapped(model, variant.changes):
                expected = model(**batches[number].inputs).logits
            assert difference(found, expected) < 1e-5, variant.removed


@pytest.mark.parametrize("name", [name for name in [*CASES, *HYBRIDS] if "CausalLM" in name or "LMHead" in name])
@torch.no_grad()
def test_logits_of_some_positions_are_those_of_all_at_these_positions(name: str) -> None:
    stock = getattr(transformers, name)
    torch.manual_seed(0)
    model = stock(stock.config_class(**(CASES | HYBRIDS)[name])).eval()
    layered = LayeredModel(model, find_stack(model), task_of(stock, model.config))
    data, variants = batch(model, 3, padded=True), [Variant(), Variant((2, 5))]
    ((some, some_logits), (every, all_logits)) = (
        next(
            (piece.labels, list(piece.logits))
            for pieces in logits_of_variants(layered, [data], variants, silent_phase(), Trial(n))
            for piece in pieces
        )
        for n in (4, 1)
    )
    if layered.layerwise is None:
        assert torch.equal(some, every)
        return
    positions = list(range(2, 19, 4))
    # Each entry predicts the next label, as in a whole text; the last of them predicts nothing.
    assert torch.equal(some[:, 1:], every[:, [position + 1 for position in positions]])
    for thinned, full in zip(some_logits, all_logits, strict=True):
        assert thinned.shape[1] == len(positions) + 1
        assert difference(thinned[:, :-1], full[:, positions]) < 1e-5


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
@torch.no_grad()
def test_what_changes_outside_of_the_layers_may_come_before_them_all(name: str) -> None:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CASES["LlamaForCausalLM"])).eval()
    layered = LayeredModel(model, "model.layers", "causal_lm")
    data = batch(model, 2, padded=False)
    changes = {name: 2 * torch.rand_like(model.get_parameter(name))}
    variants = [Variant(removed, each) for removed in ((), (0,), (3, 5)) for each in (changes, {})]
    ((piece,),) = logits_of_variants(layered, [data], variants, silent_phase())
    for variant, found in zip(variants, piece.logits, strict=True):
        with bypassed(model.model.layers, variant.removed), swapped(model, variant.changes):
            assert difference(found, model(**data.inputs).logits) < 1e-5


@torch.no_grad()
def test_the_exit_looks_at_the_samples_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """This class takes the logits of the last token that is no padding, so each sample needs its own tokens."""
    monkeypatch.setattr(execution_variants, "LOGITS_AT_ONCE", 1)
    torch.manual_seed(0)
    sizes = {**CASES["LlamaForCausalLM"], "num_labels": 3, "pad_token_id": 0}
    model = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**sizes)).eval()
    layered, data = LayeredModel(model, find_stack(model), "text_classification"), batch(model, 3, padded=True)
    data.inputs["input_ids"][data.inputs["attention_mask"] == 0] = 0
    (pieces,) = logits_of_variants(layered, [data], [Variant((2,))], silent_phase())
    found = [next(piece.logits) for piece in pieces]
    assert len(found) == 3
    with bypassed(layered.layers, (2,)):
        assert difference(torch.cat(found), model(**data.inputs).logits) < 1e-5


@torch.no_grad()
def test_layers_run_once_for_all_that_share_them() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CASES["LlamaForCausalLM"])).eval()
    layered = LayeredModel(model, "model.layers", "causal_lm")
    assert layered.layerwise is not None
    rows: list[tuple[int, int]] = []
    for index, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_hook(lambda _m, args, _o, i=index: rows.append((i, len(args[0]))))
    variants = [Variant(), Variant((3, 5)), Variant((3, 5)), Variant((5,))]
    for (piece,) in logits_of_variants(layered, [batch(model, 2, padded=False)], variants, silent_phase()):
        list(piece.logits)
    # Two windows: the dense model, and from layer 4 on those without layer 3, and from 6 on those without 5.
    entry = [(0, 2)]
    assert [each for each in rows if each not in entry] == [(1, 2), (2, 2), (3, 2), (4, 4), (5, 2), (6, 6), (7, 6)]


def batch(model: nn.Module, rows: int, padded: bool) -> Batch:
    generator = torch.Generator().manual_seed(rows)
    if model.main_input_name == "pixel_values":
        return Batch({"pixel_values": torch.randn(rows, 3, 16, 16, generator=generator)}, torch.zeros(rows))
    ids = torch.randint(5, 99, (rows, 20), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[0, 15:] = 0
    return Batch({"input_ids": ids, "attention_mask": mask}, ids)


def changed_in(model: nn.Module, layer: nn.Module) -> dict[str, Tensor]:
    """Another value for the last matrix of a layer, by its name in the model."""
    last = [parameter for parameter in layer.parameters() if parameter.ndim > 1][-1]
    name = next(name for name, parameter in model.named_parameters() if parameter is last)
    return {name: last.detach() * 1.5}
