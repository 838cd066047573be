"""Estimates of a job, made without its weights, beside the job itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from transformers import LlamaConfig, ViTImageProcessor

from sglp_core import Calibration, SGLPError, Target, estimate
from sglp_core.estimation.memory import expected_memory, saved_for_backward
from sglp_core.estimation.model_outline import read_outline
from sglp_core.options import Options
from sglp_core.reporting.estimate import EstimatedTarget
from sglp_core.structure.layer_stack import example_inputs, find_stack, layers_of, measure_stack
from tests.round_trip.models import CASES, STAGED_CASES
from tests.services import bad_models
from tests.worker.tiny_model import LAYERS, write_tiny_model, write_tokenizer

TOKENS = 16
SIZE = 16
# Families with and without torch's own attention, and one that computes with values while it is built.
FAMILIES = {
    **{name: CASES[name] for name in ("LlamaForCausalLM", "Gemma2ForCausalLM", "ViTForImageClassification")},
    "ResNetForImageClassification": STAGED_CASES["ResNetForImageClassification"][0],
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


def test_an_estimate_reads_no_weight(model: Path, tmp_path: Path) -> None:
    weights = model / "model.safetensors"
    header = int.from_bytes(weights.read_bytes()[:8], "little") + 8
    whole = weights.stat().st_size
    with weights.open("r+b") as file:
        # Everything after the header is now a hole.
        file.truncate(header)
        file.truncate(whole)
    found = estimate(str(model), tmp_path / "out", target=Target("layers", 0.5)).estimate
    stack = measure_stack(LlamaConfig.from_pretrained(model), 256)
    assert (found.layers, found.parameters, found.flops) == (LAYERS, stack.total_parameters, stack.total_flops)
    assert found.weight_bytes == whole - header
    assert found.target == EstimatedTarget("layers", 0.5, reachable=True)
    # The first and the last layer are protected.
    assert found.reachable["layers"].largest == pytest.approx((LAYERS - 2) / LAYERS)
    assert set(found.seconds) == {
        "opening", "calibrating", "measuring", "planning", "repairing", "evaluating", "verifying",
    }  # fmt: skip
    assert found.total_seconds > 0
    names = {file["name"] for file in json.loads((tmp_path / "out/manifest.json").read_text())["files"]}
    assert names == {"report.json", "report.md"}


def test_a_target_beyond_every_plan_is_said_to_be(model: Path, tmp_path: Path) -> None:
    found = estimate(str(model), tmp_path / "out", target=Target("layers", 0.9)).estimate
    assert found.target.reachable is False


def test_what_is_reachable_leaves_a_layer_of_every_kind(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    kinds = ["conv", "full_attention", "conv", "full_attention", "conv", "conv", "conv", "conv"]
    config = transformers.Lfm2Config(
        vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=2, layer_types=kinds,
    )  # fmt: skip
    transformers.Lfm2ForCausalLM(config).save_pretrained(model)
    found = estimate(str(model), tmp_path / "out", target=Target("layers", 0.75)).estimate
    # First, last, and one of the two with attention.
    assert found.reachable["layers"].largest == pytest.approx(5 / 8)
    assert found.target.reachable is False


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_backward_pass_keeps_is_what_it_keeps_with_weights(name: str, tmp_path: Path) -> None:
    stock = getattr(transformers, name)
    stock(stock.config_class(**FAMILIES[name])).save_pretrained(write_tokenizer(tmp_path / "model"))
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(tmp_path / "model")
    outline = read_outline(str(tmp_path / "model"), None, TOKENS, tmp_path, None)
    real = stock.from_pretrained(tmp_path / "model").eval().requires_grad_(False)
    layers_of(real, find_stack(real, outline.image_shape)).requires_grad_(True)
    own = {tensor.data_ptr() for tensor in real.state_dict().values()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = real(**example_inputs(real, TOKENS, outline.image_shape)).logits
    estimated_bytes, logit_bytes = saved_for_backward(outline, batch_size=1)
    assert logit_bytes == logits.numel() * 4
    assert estimated_bytes == sum(storage.nbytes() for storage in kept.values())
    assert saved_for_backward(outline, batch_size=8)[0] == 8 * estimated_bytes


def test_images_are_held_and_counted(tmp_path: Path) -> None:
    stock = transformers.ViTForImageClassification
    stock(stock.config_class(**FAMILIES[stock.__name__])).save_pretrained(tmp_path / "model")
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    processor.save_pretrained(tmp_path / "model")
    outline = read_outline(str(tmp_path / "model"), None, TOKENS, tmp_path, None)
    image = processor(torch.zeros(3, SIZE, SIZE), return_tensors="pt")["pixel_values"]
    few, many = (
        expected_memory(outline, 1, Options(calibration=Calibration(samples=samples)))["measuring"]
        for samples in (1, 100_001)
    )
    assert few is not None
    assert many is not None
    # The interpreter itself may grow in between.
    assert many - few == pytest.approx(100_000 * image.nbytes, rel=0.05)


def test_calibration_text_that_is_given_takes_no_time_to_write(model: Path, tmp_path: Path) -> None:
    given = estimate(str(model), tmp_path / "out", options=Options(calibration=Calibration("text.txt"))).estimate
    assert given.seconds["calibrating"] == 0


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (bad_models.lying_header, "unsafe_format"),
        (bad_models.truncated_weights, "unsafe_format"),
        (bad_models.auto_map, "unsafe_format"),
        (bad_models.adapter_beside, "unsafe_format"),
        (bad_models.unknown_type, "unsupported_architecture"),
        (bad_models.value_of_another_type, "unsupported_architecture"),
        (lambda good, folder: bad_models.pickle_named_safetensors(good, folder, folder / "run"), "unsafe_format"),
        (lambda _good, folder: bad_models.pickle_named_gguf(folder, folder / "run"), "unsafe_format"),
        (lambda _good, folder: bad_models.without_a_stack(folder), "unsupported_architecture"),
        (lambda _good, folder: folder / "nowhere", "model_not_found"),
    ],
)
def test_bad_models_are_refused_as_a_job_refuses_them(
    model: Path, tmp_path: Path, make: Callable[[Path, Path], Path], code: str
) -> None:
    with pytest.raises(SGLPError) as caught:
        estimate(str(make(model, tmp_path)), tmp_path / "out")
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "run").exists()
