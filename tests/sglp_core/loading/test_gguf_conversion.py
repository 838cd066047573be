"""A real GGUF file becomes a model directory that the stock class loads with the values of the file."""

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader, dequantize
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglp_core.checkpoints.converted_models import ConvertedModels
from sglp_core.loading.source import Source, open_source
from sglp_service.demo import find_model


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def source(cache: Path) -> Source:
    return open_source(find_model(), ConvertedModels(cache))


def test_every_tensor_of_the_stock_class_is_there_and_no_other(source: Source) -> None:
    _, info = AutoModelForCausalLM.from_pretrained(source.directory, output_loading_info=True)
    assert not any(info.values()), info


def test_the_values_are_those_of_the_file(source: Source) -> None:
    model = AutoModelForCausalLM.from_pretrained(source.directory)
    tensors = {tensor.name: tensor for tensor in GGUFReader(find_model()).tensors}
    # Query and key rows lie in another order in GGUF, so these tensors stand for the rest.
    for name, parameter in {
        "token_embd.weight": model.model.embed_tokens.weight,
        "blk.7.ffn_down.weight": model.model.layers[7].mlp.down_proj.weight,
        "blk.29.attn_v.weight": model.model.layers[29].self_attn.v_proj.weight,
        "output_norm.weight": model.model.norm.weight,
    }.items():
        expected = torch.tensor(dequantize(tensors[name].data, tensors[name].tensor_type))
        assert torch.equal(parameter.detach(), expected.view_as(parameter)), name


def test_the_tokenizer_comes_along(source: Source) -> None:
    tokenizer = AutoTokenizer.from_pretrained(source.directory)
    assert tokenizer.decode(tokenizer("The cat sat on the mat.")["input_ids"]) == "The cat sat on the mat."


def test_the_licence_is_the_files(source: Source) -> None:
    assert (source.format, source.card.licence) == ("gguf", "apache-2.0")


def test_a_second_opening_converts_nothing(source: Source, cache: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in source.directory.rglob("*")}
    assert open_source(find_model(), ConvertedModels(cache)) == source
    assert {file: file.stat().st_mtime_ns for file in source.directory.rglob("*")} == before
    assert {entry.suffix for entry in cache.iterdir()} == {"", ".lock"}
