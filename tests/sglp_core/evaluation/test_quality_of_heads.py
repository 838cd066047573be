"""Quality of heads other than those of language models, against the distributions of another library."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, kl_divergence

from sglp_core.data.predicted_labels import predicted_labels
from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.healing.gradients import loss_of_scores
from sglp_core.options import Healing
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.tasks import Batch, logits_in, task_of
from tests.sglp_core.small_models import build

LENGTHS = (12, 5, 9, 2, 12)


def judged(name: str, **changes: Any) -> tuple[Quality, Quality, list[list[Tensor]]]:
    """Quality of the dense model and without two layers, and the logits of both for each text without its padding."""
    model = build(name, **changes)
    # So that layers matter.
    for parameter in layers_of(model, find_stack(model)).parameters():
        parameter.requires_grad_(False).mul_(3)
    layered = LayeredModel(model, find_stack(model), task_of(type(model), model.config))
    ids = torch.randint(5, 60, (5, 12), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(12) < torch.tensor(LENGTHS)[:, None]).long()
    inputs = {"input_ids": ids, "attention_mask": mask}
    labels = predicted_labels(layered, inputs, 1 - mask)
    found = evaluate(layered, [Batch(inputs, labels)], {"pruned": Variant((2, 3))})
    logits = []
    for removed in ((), (2, 3)):
        with bypassed(layered.layers, removed), torch.no_grad():
            logits.append([logits_in(model(input_ids=ids[row : row + 1, :n])) for row, n in enumerate(LENGTHS)])
    return found["dense"], found["pruned"], logits


def require(found: Quality, nats: Tensor, kept: Tensor, divergence: Tensor) -> None:
    assert found.perplexity == pytest.approx(nats.mean().exp().item(), rel=1e-4)
    assert found.accuracy == found.agreement == pytest.approx(kept.float().mean().item())
    assert found.kl == pytest.approx(divergence.mean().item(), rel=1e-3)
    assert 0 < kept.float().mean() < 1


def figures(dense: Distribution, pruned: Distribution, label: Tensor, most_likely: Tensor) -> tuple[Tensor, ...]:
    return -pruned.log_prob(label).flatten(), (most_likely == label).flatten(), kl_divergence(dense, pruned).flatten()


def joined(parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.cat(part) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("name", ["BertForTokenClassification", "BertForQuestionAnswering"])
def test_of_tokens_and_of_both_ends_of_an_answer(name: str) -> None:
    dense_quality, quality, (dense, pruned) = judged(name, num_labels=3 if "Token" in name else 2)
    assert (dense_quality.accuracy, dense_quality.agreement, dense_quality.kl) == (1, 1, 0)
    parts = [
        figures(Categorical(logits=d), Categorical(logits=p), d.argmax(-1), p.argmax(-1))
        for d, p in zip(dense, pruned, strict=True)
    ]
    require(quality, *joined(parts))


def test_of_several_labels() -> None:
    changes = {"num_labels": 7, "problem_type": "multi_label_classification"}
    _, quality, (dense, pruned) = judged("BertForSequenceClassification", **changes)
    d, p = torch.cat(dense), torch.cat(pruned)
    require(quality, *figures(Bernoulli(logits=d), Bernoulli(logits=p), (d > 0).float(), (p > 0).float()))


def test_of_scores() -> None:
    dense_quality, quality, (dense, pruned) = judged("BertForSequenceClassification", num_labels=1)
    assert (dense_quality.perplexity, dense_quality.accuracy, dense_quality.kl) == (pytest.approx(1), 1, 0)
    d, p = torch.cat(dense)[:, 0], torch.cat(pruned)[:, 0]
    spread = d.std(correction=0)
    divergence = kl_divergence(Normal(d, spread), Normal(p, spread))
    ordered = torch.tensor([(d[i] > d[j]) == (p[i] > p[j]) for i in range(5) for j in range(i)])
    require(quality, divergence, ordered, divergence)


def test_healing_of_scores_learns_the_distributions_that_they_are_judged_by() -> None:
    student, labels, dense = (torch.randn(6, generator=torch.Generator().manual_seed(n)) for n in range(3))
    found = loss_of_scores(student[:, None], labels, dense[:, None], Healing(steps=1, alpha=0.25))
    distribution = Normal(student, 1)
    # Beside what a label that is met exactly costs.
    error = distribution.log_prob(student) - distribution.log_prob(labels)
    expected = 0.75 * error + 0.25 * kl_divergence(Normal(dense, 1), distribution)
    assert found.item() == pytest.approx(expected.mean().item(), rel=1e-5)
