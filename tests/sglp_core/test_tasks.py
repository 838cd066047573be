"""The task of a model class, and the loss that follows from it."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel, XLMConfig, XLMWithLMHeadModel

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.tasks import Task, aligned, logits_in, loss_of, task_of

SMALL = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
BERT = BertConfig(**SMALL, is_decoder=True)
MULTI_LABEL = {"num_labels": 3, "problem_type": "multi_label_classification"}
XLM = XLMConfig(n_layers=2, emb_dim=32, n_heads=4, vocab_size=50)


@pytest.mark.parametrize(
    ("name", "task", "changes"),
    [
        ("BertForMaskedLM", "masked_lm", {}),
        ("BertLMHeadModel", "causal_lm", {}),
        ("RobertaForCausalLM", "causal_lm", {}),
        ("XLMWithLMHeadModel", "masked_lm", {}),
        ("ViTForImageClassification", "image_classification", {}),
        ("BertForSequenceClassification", "text_classification", {}),
        ("BertForSequenceClassification", "text_regression", {"num_labels": 1}),
        ("BertForSequenceClassification", "multi_label_classification", MULTI_LABEL),
        ("BertForTokenClassification", "token_classification", {}),
        ("BertForQuestionAnswering", "question_answering", {"num_labels": 1}),
    ],
)
def test_a_class_has_the_task_that_its_head_was_trained_for(name: str, task: Task, changes: dict[str, Any]) -> None:
    stock = getattr(transformers, name)
    assert task_of(stock, stock.config_class(**changes)) == task


@pytest.mark.parametrize(
    ("stock", "config"), [(BertForMaskedLM, BERT), (BertLMHeadModel, BERT), (XLMWithLMHeadModel, XLM)]
)
def test_the_loss_of_the_task_is_the_loss_of_the_class(
    stock: type[transformers.PreTrainedModel], config: transformers.PretrainedConfig
) -> None:
    torch.manual_seed(0)
    model = stock(config).eval()
    tokens = torch.randint(5, 50, (2, 7))
    output = model(input_ids=tokens, labels=tokens)
    assert loss_of(output.logits, tokens, task_of(stock, config)).item() == pytest.approx(output.loss.item(), rel=1e-5)


def test_a_class_without_a_head_is_refused() -> None:
    with pytest.raises(UnsupportedArchitecture, match="BertModel has no head"):
        task_of(transformers.BertModel, BERT)


@pytest.mark.parametrize(
    ("name", "labels", "changes"),
    [
        (
            "BertForTokenClassification",
            {"labels": torch.tensor([[-100, 1, 2, 0], [2, 0, -100, -100]])},
            {"num_labels": 3},
        ),
        (
            "BertForSequenceClassification",
            {"labels": torch.tensor([[0.0, 1, 1], [0, 0, 1]])},
            {"num_labels": 3, "problem_type": "multi_label_classification"},
        ),
        (
            "BertForQuestionAnswering",
            {"start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 2])},
            {},
        ),
    ],
)
def test_the_loss_of_a_head_is_the_loss_of_its_class(name: str, labels: dict[str, Tensor], changes: Any) -> None:
    torch.manual_seed(0)
    stock = getattr(transformers, name)
    config = BertConfig(**{**SMALL, **changes})
    model = stock(config).eval()
    output = model(input_ids=torch.randint(5, 50, (2, 4)), **labels)
    own = labels["labels"].long() if "labels" in labels else torch.tensor([[0, 1, 0, 2], [0, 0, 3, 0]])
    found = loss_of(logits_in(output), own, task_of(stock, config))
    assert found.item() == pytest.approx(output.loss.item(), rel=1e-5)


def test_padding_is_no_answer() -> None:
    logits = torch.tensor([[[1.0, 2, 9], [3, 0, 9]]])
    rows, targets = aligned(logits, torch.tensor([[2, 1, -100]]), "question_answering")
    assert targets.tolist() == [1, 0]
    torch.testing.assert_close(rows.softmax(-1), nn.functional.pad(logits[0, :, :2].softmax(-1), (0, 1)))


def test_a_score_has_a_gradient_at_the_models_own_score() -> None:
    scores = torch.tensor([[3.0], [1.0], [-4.0]], requires_grad=True)
    labels = torch.cat([scores.detach(), torch.full((3, 1), 2.0)], 1)
    loss_of(scores, labels, "text_regression").backward()
    assert scores.grad is not None
    # One over the spread, a third of each, above and below in turn.
    assert scores.grad.flatten().tolist() == pytest.approx([-1 / 6, 1 / 6, -1 / 6])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("BertForSequenceClassification", {"num_labels": 2, "problem_type": "regression"}),
        ("BertForTokenClassification", {"num_labels": 1}),
        ("ViTForImageClassification", MULTI_LABEL),
        ("ViTForImageClassification", {"num_labels": 0}),
    ],
)
def test_a_head_without_a_known_loss_is_refused(name: str, changes: dict[str, Any]) -> None:
    stock = getattr(transformers, name)
    with pytest.raises(UnsupportedArchitecture, match="one of several classes"):
        task_of(stock, stock.config_class(**changes))
