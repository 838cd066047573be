"""The task of a model class, and the loss that follows from it."""

import pytest
import torch
import transformers
from transformers import BertConfig, BertForMaskedLM, BertLMHeadModel, XLMConfig, XLMWithLMHeadModel

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.tasks import Task, loss_of, task_of

BERT = BertConfig(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, is_decoder=True
)
XLM = XLMConfig(n_layers=2, emb_dim=32, n_heads=4, vocab_size=50)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("BertForMaskedLM", "masked_lm"),
        ("BertLMHeadModel", "causal_lm"),
        ("RobertaForCausalLM", "causal_lm"),
        ("XLMWithLMHeadModel", "masked_lm"),
        ("ViTForImageClassification", "image_classification"),
        ("BertForSequenceClassification", "text_classification"),
        ("BertForTokenClassification", "token_classification"),
    ],
)
def test_a_class_has_the_task_that_its_head_was_trained_for(name: str, task: Task) -> None:
    stock = getattr(transformers, name)
    assert task_of(stock, stock.config_class()) == task


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
