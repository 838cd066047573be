"""A model with changed weights is written from disk byte by byte as it is written from memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from sglp_core.artifact.stored_changes import with_changes
from sglp_core.artifact.write import Artifact, write_artifact
from sglp_core.checkpoints.tensor_values import read_tensor
from sglp_core.errors import UnsupportedArchitecture
from sglp_core.evaluation.logits import difference
from sglp_core.execution.loaded_tensors import read_loaded_tensors
from sglp_core.execution.variant import Variant
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Calibration, Memory, Options
from sglp_core.run_context import RunContext
from sglp_core.structure.layer_stack import find_stack, layers_of
from tests.sglp_core.execution.placements import CASES, from_disk
from tests.worker.tiny_model import write_tiny_model

OPTIONS = Options(calibration=Calibration(samples=4, sequence_length=16, batch_size=2))
PROBE = {"input_ids": torch.arange(5, 29).view(2, 12)}
REMOVED = (0, 3)
PLACEMENTS: tuple[Memory, ...] = ("in_memory", "streaming")


def write_dense(name: str, dtype: torch.dtype, directory: Path, **changes: Any) -> Any:
    """A random model of a class with the tokenizer of the tiny model."""
    write_tiny_model(directory)
    (directory / "model.safetensors").unlink()
    torch.manual_seed(0)
    stock = getattr(transformers, name)
    model = stock(stock.config_class(**{**CASES[name], **changes})).to(dtype)
    model.config.dtype = dtype
    for parameter in layers_of(model, find_stack(model)).parameters():
        parameter.data.mul_(3)
    model.save_pretrained(directory, max_shard_size="40KB")
    return model


def changes_of(model: Any) -> dict[str, Tensor]:
    """Other values for a whole layer, and for all that is outside of the layers."""
    path = find_stack(model)
    names = [
        name
        for name, parameter in model.named_parameters()
        if name.startswith(f"{path}.1.") or not name.startswith(f"{path}.")
    ]
    generator = torch.Generator().manual_seed(1)
    parameters = {name: model.get_parameter(name).detach() for name in names}
    return {
        name: (value + 0.1 * torch.randn(value.shape, generator=generator)).to(value.dtype)
        for name, value in parameters.items()
    }


def write(dense: Path, changes: dict[str, Tensor], output: Path, memory: Memory) -> Artifact:
    loaded = load_model(dense.as_uri(), OPTIONS, RunContext(cache=output / "cache", memory=memory))
    assert loaded.weights.in_memory == (memory == "in_memory")
    return write_artifact(loaded, Variant(REMOVED, changes), PROBE, output / "model")


def stored(directory: Path) -> dict[str, Tensor]:
    return {
        name: tensor for file in sorted(directory.glob("*.safetensors")) for name, tensor in load_file(file).items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name",
    [
        "LlamaForCausalLM",
        "GPT2LMHeadModel",
        "MixtralForCausalLM",
        "OPTForCausalLM",
        "BertForMaskedLM",
        "Gemma3ForCausalLM",
    ],
)
def test_the_artifact_from_disk_is_that_from_memory(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = write_dense(name, dtype, tmp_path / "dense")
    changes = changes_of(model)
    from_memory = write(tmp_path / "dense", changes, tmp_path / "memory", "in_memory")
    from_disk = write(tmp_path / "dense", changes, tmp_path / "disk", "streaming")

    expected, written = stored(tmp_path / "memory/model"), stored(tmp_path / "disk/model")
    assert written.keys() == expected.keys()
    for tensor_name, tensor in expected.items():
        assert written[tensor_name].dtype == tensor.dtype == dtype
        assert torch.equal(written[tensor_name].view(torch.uint8), tensor.view(torch.uint8)), tensor_name
    assert from_disk.parameters == from_memory.parameters
    for artifact in (from_memory, from_disk):
        assert difference(artifact.written.pruned_logits, artifact.written.bypassed_logits) < 1e-5
    assert difference(from_disk.written.pruned_logits, from_memory.written.pruned_logits) < 1e-5


@pytest.mark.parametrize("others", [["model.embed_tokens.weight"], []], ids=["beside the embedding", "alone"])
def test_a_changed_embedding_is_written_where_the_tied_head_is_stored(others: list[str], tmp_path: Path) -> None:
    model = write_dense("LlamaForCausalLM", torch.float32, tmp_path / "dense", tie_word_embeddings=True)
    tensors = stored(tmp_path / "dense")
    embedding = tensors.pop("model.embed_tokens.weight")
    for file in (tmp_path / "dense").glob("*.safetensors*"):
        file.unlink()
    tied = {name: embedding.clone() for name in ["lm_head.weight", *others]}
    save_file(tensors | tied, tmp_path / "dense/model.safetensors", {"format": "pt"})
    changes = changes_of(model)
    for memory in PLACEMENTS:
        artifact = write(tmp_path / "dense", changes, tmp_path / memory, memory)
        assert difference(artifact.written.pruned_logits, artifact.written.bypassed_logits) < 1e-5
        again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / memory / "model")
        assert again.lm_head.weight is again.model.embed_tokens.weight
        assert torch.equal(again.lm_head.weight, changes["model.embed_tokens.weight"])


def test_of_stored_tensors_that_loading_splits_the_whole_is_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stock = transformers.Dinov2ForImageClassification
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 16, "patch_size": 8}
    model = stock(stock.config_class(**sizes, use_swiglu_ffn=True))
    model.save_pretrained(tmp_path / "dense")
    part = "dinov2.encoder.layer.1.mlp."
    changes = {f"{part}up_proj.weight": model.get_parameter(f"{part}up_proj.weight").detach() * 2}
    layered = from_disk(tmp_path / "dense")
    tensors = with_changes(layered, read_loaded_tensors(tmp_path / "dense"), changes, tmp_path / "changed")

    (changed,) = [tensor for tensor in tensors.tensors if tmp_path / "changed" in tensor.file.parents]
    assert changed.name == f"{part}weights_in.weight"
    gate = model.get_parameter(f"{part}gate_proj.weight").detach()
    assert torch.equal(read_tensor(changed), torch.cat([gate, changes[f"{part}up_proj.weight"]]))


def test_changed_weights_that_cannot_be_turned_back_are_refused(tmp_path: Path) -> None:
    model = write_dense("MixtralForCausalLM", torch.float32, tmp_path / "dense")
    loaded = load_model((tmp_path / "dense").as_uri(), OPTIONS, RunContext(cache=tmp_path, memory="streaming"))
    assert loaded.tensors is not None
    # As if a checkpoint had one more tensor merged into the experts, which the reverse operation does not give.
    conversions = [
        replace(each, stored=(*each.stored, "unknown")) if each.converted else each
        for each in loaded.tensors.conversions
    ]
    tensors = replace(loaded.tensors, conversions=tuple(conversions))
    name = "model.layers.1.mlp.experts.down_proj"
    changes = {name: model.get_parameter(name).detach() * 2}
    with pytest.raises(UnsupportedArchitecture, match="does not give unknown back"):
        with_changes(loaded, tensors, changes, tmp_path / "changed")
