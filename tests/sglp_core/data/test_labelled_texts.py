"""Classifiers of texts: their data, and a whole job with one."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing

from sglp_core import (
    Calibration,
    Evaluation,
    Healing,
    Method,
    SGLPError,
    SweepTarget,
    Target,
    compress,
    estimate,
    sweep,
)
from sglp_core.data.labelled_texts import read_labelled_texts
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Memory, Options
from sglp_core.run_context import RunContext
from tests.worker.tiny_model import WORDS, write_tiny_model

SMALL = {"vocab_size": 23, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
CASES: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": {**SMALL, "max_position_embeddings": 64},
    "LlamaForSequenceClassification": {**SMALL, "pad_token_id": 0, "num_labels": 1},
    "BertForTokenClassification": {**SMALL, "max_position_embeddings": 64},
    "BertForQuestionAnswering": {**SMALL, "max_position_embeddings": 64, "num_labels": 2},
}


def write_classifier(directory: Path, name: str = "BertForSequenceClassification", **more: Any) -> Path:
    """A random classifier whose answers differ from text to text."""
    write_tiny_model(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.save_pretrained(directory)
    torch.manual_seed(1)
    stock = getattr(transformers, name)
    model = stock(stock.config_class(**{"num_labels": 3, **CASES[name], **more}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("name", [name for name in CASES if "Answering" not in name])
def test_a_classifier_of_texts_is_compressed(name: str, tmp_path: Path) -> None:
    model, text = write_classifier(tmp_path / "model", name), tmp_path / "text.txt"
    draw = random.Random(0)
    text.write_text("\n\n".join(" ".join(draw.choices(WORDS, k=draw.randint(5, 40))) for _ in range(60)))
    report = compress(
        str(model),
        Target("layers", 0.33),
        tmp_path / "out",
        options=Options(
            method=Method() if name.startswith("Bert") else Method(importance="grad_norm", repair="none"),
            calibration=Calibration(str(text), samples=24, sequence_length=32),
            evaluation=Evaluation(samples=12),
            healing=Healing(steps=2 if name == "LlamaForSequenceClassification" else 0),
        ),
        context=RunContext(cache=tmp_path / "cache"),
    )
    assert report.verification.passed
    assert (report.stages[0].stage, report.stages[0].accuracy) == ("dense", 1)
    assert "by the dense model itself" in report.evaluation.description
    reloaded = getattr(transformers, name).from_pretrained(tmp_path / "out/model")
    assert (type(reloaded).__name__, reloaded.config.num_hidden_layers) == (name, 4)
    assert json.loads((tmp_path / "out/report.json").read_text())["verification"]["cached_decoding_equal"] is None


def test_each_document_is_one_sample_with_the_models_own_answer(tmp_path: Path) -> None:
    model = write_classifier(tmp_path / "model")
    loaded = load_model(
        str(model), Options(calibration=Calibration(sequence_length=16)), RunContext(cache=tmp_path / "cache")
    )
    documents = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))] + ["the cat"]
    text = tmp_path / "text.jsonl"
    text.write_text("\n".join(json.dumps({"text": each}) for each in documents))
    found = read_labelled_texts(text, loaded, loaded.processor, 100, 16, 3)
    assert found.input_ids.shape == (len(documents), 16)
    # The only short one is padded, and the padding not read.
    (short,) = (found.attention_mask.sum(1) < 16).nonzero().flatten().tolist()
    alone = loaded.processor("the cat", return_tensors="pt")
    with torch.no_grad():
        logits = loaded.model(**{k: v for k, v in alone.items() if k != "token_type_ids"}).logits
    assert found.labels[short] == logits.argmax()
    assert len(set(found.labels.tolist())) > 1
    first, second = found.split(5)
    assert torch.cat([first.labels, second.labels]).equal(found.labels)
    assert read_labelled_texts(text, loaded, loaded.processor, 100, 16, 3).digest == found.digest
    assert read_labelled_texts(text, loaded, loaded.processor, 100, 16, 4).digest != found.digest


@pytest.mark.parametrize("name", CASES)
def test_the_models_answers_are_the_same_in_every_placement(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, text = write_classifier(tmp_path / "model", name), tmp_path / "text.txt"
    text.write_text("\n\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))))

    def labels(memory: Memory) -> list[int]:
        options = Options(calibration=Calibration(sequence_length=16))
        loaded = load_model(str(model), options, RunContext(cache=tmp_path / "cache", memory=memory))
        return read_labelled_texts(text, loaded, loaded.processor, 100, 16, 3).labels.tolist()

    expected = labels("in_memory")
    assert labels("streaming") == expected
    monkeypatch.setattr("sglp_core.loading.loaded_model.fits", lambda *_: False)
    assert labels("in_memory") == expected
    assert len(torch.tensor(expected).unique()) > 1


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("BertForSequenceClassification", {"problem_type": "multi_label_classification"}),
        ("BertForQuestionAnswering", {}),
    ],
)
def test_plans_of_other_heads_are_the_same_in_every_placement(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    model, text = write_classifier(tmp_path / "model", name, **more), tmp_path / "text.txt"
    text.write_text("\n\n".join(" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))))
    options = Options(
        method=Method(repair="compensate"),
        calibration=Calibration(str(text), samples=12, sequence_length=16),
        evaluation=Evaluation(samples=8),
    )
    points = []
    placements: tuple[Memory, ...] = ("in_memory", "streaming")
    for memory in placements:
        context = RunContext(cache=tmp_path / memory, memory=memory)
        points.append(
            sweep(str(model), SweepTarget("layers", (0.33,)), tmp_path / "out" / memory, options, context).sweep.points
        )
    for (dense, pruned), (streamed_dense, streamed) in [points]:
        assert (dense.accuracy, dense.agreement, dense.kl) == (1, 1, 0)
        assert streamed_dense.perplexity == pytest.approx(dense.perplexity, rel=1e-4)
        assert pruned.removed_layers == streamed.removed_layers
        assert pruned.kl
        assert streamed.kl == pytest.approx(pruned.kl, rel=1e-2)


def test_tokens_that_the_tokenizer_adds_have_no_label(tmp_path: Path) -> None:
    model = write_classifier(tmp_path / "model", "BertForTokenClassification")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    added = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=added)
    tokenizer.save_pretrained(model)
    options = Options(calibration=Calibration(sequence_length=16))
    loaded = load_model(str(model), options, RunContext(cache=tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("the cat sat on it\n\nthe dog ran and then slept under a tree")
    found = read_labelled_texts(tmp_path / "text.txt", loaded, loaded.processor, 100, 16, 3)
    assert sorted((found.labels != -100).sum(1).tolist()) == [5, 9]
    with torch.no_grad():
        said = loaded.model(input_ids=found.input_ids, attention_mask=found.attention_mask).logits.argmax(-1)
    for own, expected, mask in zip(found.labels, said, found.attention_mask, strict=True):
        count = int(mask.sum())
        assert own.tolist() == [-100, *expected[1 : count - 1].tolist(), *[-100] * (17 - count)]


def test_scores_are_compared_only_with_others(tmp_path: Path) -> None:
    model = write_classifier(tmp_path / "model", "LlamaForSequenceClassification")
    text = tmp_path / "text.txt"
    text.write_text("the cat\n\nthe cat")

    def refusal(**calibration: Any) -> str:
        options = Options(calibration=Calibration(str(text), sequence_length=16, **calibration))
        with pytest.raises(SGLPError) as refused:
            compress(str(model), Target("layers", 0.33), tmp_path / "out", options=options)
        assert refused.value.code == "bad_calibration"
        return str(refused.value)

    assert "batch_size above 1" in refusal(batch_size=1)
    assert "all texts one score" in refusal()


def test_a_head_without_a_known_loss_is_refused(tmp_path: Path) -> None:
    model = write_classifier(tmp_path / "model", problem_type="regression")
    with pytest.raises(SGLPError, match="one of several classes") as refused:
        estimate(str(model), tmp_path / "out")
    assert refused.value.code == "unsupported_architecture"


def test_the_error_of_a_classifier_without_data_asks_for_texts(tmp_path: Path) -> None:
    with pytest.raises(SGLPError, match="give texts") as refused:
        compress(
            str(write_classifier(tmp_path / "model")),
            Target("layers", 0.33),
            tmp_path / "out",
            options=Options(calibration=Calibration(sequence_length=32)),
            context=RunContext(cache=tmp_path / "cache"),
        )
    assert refused.value.code == "bad_calibration"
