"""Classifiers of texts: their data, and a whole job with one."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sglp_core import Calibration, Evaluation, Method, SGLPError, Target, compress, estimate
from sglp_core.data.labelled_texts import read_labelled_texts
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Memory, Options
from sglp_core.run_context import RunContext
from tests.worker.tiny_model import WORDS, write_tiny_model

SMALL = {"vocab_size": 23, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
CASES: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": {**SMALL, "max_position_embeddings": 64},
    "LlamaForSequenceClassification": {**SMALL, "pad_token_id": 0},
    "BertForTokenClassification": {**SMALL, "max_position_embeddings": 64},
}


def write_classifier(directory: Path, name: str = "BertForSequenceClassification", **more: Any) -> Path:
    """A random classifier whose answers differ from text to text."""
    write_tiny_model(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.pad_token = tokenizer.unk_token
    tokenizer.save_pretrained(directory)
    torch.manual_seed(1)
    stock = getattr(transformers, name)
    model = stock(stock.config_class(**{**CASES[name], "num_labels": 3, **more}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("name", CASES)
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
        ),
        context=RunContext(cache=tmp_path / "cache"),
    )
    assert report.verification.passed
    assert (report.stages[0].stage, report.stages[0].accuracy) == ("dense", 1)
    assert "labelled by the dense model itself" in report.evaluation.description
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


@pytest.mark.parametrize("more", [{"num_labels": 1}, {"problem_type": "multi_label_classification"}])
def test_a_head_that_chooses_no_class_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    model = write_classifier(tmp_path / "model", **more)
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
