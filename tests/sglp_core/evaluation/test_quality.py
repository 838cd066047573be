"""Quality figures against direct formulas."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sglp_core.evaluation.quality import Quality, evaluate, evaluate_samples
from sglp_core.execution import variants
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.tasks import Batch


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=4,
        num_attention_heads=2,
        # Layers that matter, so that no figure is a difference of almost equal ones.
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def batch_of(lengths: list[int], seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(30, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return Batch({"input_ids": ids, "attention_mask": mask}, ids.masked_fill(mask == 0, -100))


BATCHES = [batch_of([9, 6], 0), batch_of([4], 1)]


def log_probabilities(model: Any, keep: list[int], batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Next-token log-probabilities in float64 of a model that really has only the layers `keep`, and the labels."""
    whole = model.model.layers
    model.model.layers = torch.nn.ModuleList([whole[i] for i in keep])
    with torch.no_grad():
        logits = model(**batch.inputs, use_cache=False).logits[:, :-1].double()
    model.model.layers = whole
    labels = batch.labels[:, 1:]
    counted = labels != -100
    logits = logits[counted]
    return (logits - logits.logsumexp(-1, keepdim=True)).numpy(), labels[counted].numpy()


@pytest.mark.parametrize("logits_at_once", [2**24, 1], ids=["whole batches", "sample by sample"])
def test_perplexity_accuracy_agreement_and_divergence_equal_their_definitions(
    model: Any, logits_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "LOGITS_AT_ONCE", logits_at_once)
    found = evaluate(LayeredModel(model, "model.layers", "causal_lm"), BATCHES, {"pruned": Variant([1, 2])})
    dense, labels = (
        np.concatenate(x) for x in zip(*(log_probabilities(model, [0, 1, 2, 3], b) for b in BATCHES), strict=True)
    )
    pruned, _ = (np.concatenate(x) for x in zip(*(log_probabilities(model, [0, 3], b) for b in BATCHES), strict=True))
    rows = np.arange(len(labels))
    assert found["dense"].perplexity == pytest.approx(np.exp(-dense[rows, labels].mean()), rel=1e-5)
    assert found["dense"].accuracy == pytest.approx((dense.argmax(1) == labels).mean())
    assert (found["dense"].agreement, found["dense"].kl) == (1, pytest.approx(0, abs=1e-6))
    assert found["pruned"].perplexity == pytest.approx(np.exp(-pruned[rows, labels].mean()), rel=1e-5)
    assert found["pruned"].accuracy == pytest.approx((pruned.argmax(1) == labels).mean())
    assert found["pruned"].agreement == pytest.approx((dense.argmax(1) == pruned.argmax(1)).mean())
    assert found["pruned"].kl == pytest.approx((np.exp(dense) * (dense - pruned)).sum(1).mean(), rel=1e-4)


@pytest.mark.parametrize("logits_at_once", [2**24, 1], ids=["whole batches", "sample by sample"])
def test_the_sums_of_a_sample_are_over_its_own_positions(
    model: Any, logits_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "LOGITS_AT_ONCE", logits_at_once)
    layered = LayeredModel(model, "model.layers", "causal_lm")
    found = evaluate_samples(layered, BATCHES, {"pruned": Variant([1, 2])})["pruned"].numpy()
    samples = [batch.rows(row, row + 1) for batch in BATCHES for row in range(len(batch.labels))]
    assert len(found) == len(samples) == 3
    for sums, sample in zip(found, samples, strict=True):
        dense, labels = log_probabilities(model, [0, 1, 2, 3], sample)
        pruned, _ = log_probabilities(model, [0, 3], sample)
        top = pruned.argmax(1)
        expected = [
            -pruned[np.arange(len(labels)), labels].sum(),
            (top == labels).sum(),
            (top == dense.argmax(1)).sum(),
            (np.exp(dense) * (dense - pruned)).sum(),
            len(labels),
        ]
        np.testing.assert_allclose(sums, expected, rtol=1e-4)


def test_evaluating_leaves_the_model_whole(model: Any) -> None:
    before = evaluate(LayeredModel(model, "model.layers", "causal_lm"), BATCHES, {"none": Variant([0, 1, 2])})
    assert evaluate(LayeredModel(model, "model.layers", "causal_lm"), BATCHES, {}) == {"dense": before["dense"]}


def test_a_figure_that_is_not_finite_is_reported_as_none() -> None:
    found = Quality(float("inf"), 0.25, 0.5, float("nan"))
    assert found.to_dict() == {"perplexity": None, "accuracy": 0.25, "agreement": 0.5, "kl": None}
