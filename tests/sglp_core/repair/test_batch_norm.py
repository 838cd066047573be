"""Batch-norm statistics after a removal, against those of a network that really has only the layers that stay."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, ViTForImageClassification

from sglp_core import Calibration, Evaluation, Method, QualityTarget, Target, compress
from sglp_core.architectures import CifarResNetConfig, CifarResNetForImageClassification
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.options import Options
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.repair.batch_norm import estimate_statistics, repair_batch_norms
from sglp_core.repair.repair import repair
from sglp_core.reporting.report import CompressReport
from sglp_core.run_context import RunContext
from sglp_core.structure.layer_stack import find_stack
from sglp_core.tasks import Batch
from tests.sglp_core.data.tiny_images import CLASSES, write_images, write_tiny_vit

REMOVED = (1, 3)


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = CifarResNetConfig(depths=[3, 3], hidden_sizes=[4, 8], num_labels=3)
    return as_after_training(CifarResNetForImageClassification(config), batches(0)[0].inputs["pixel_values"])


def as_after_training(model: Any, images: torch.Tensor) -> Any:
    """The model with the statistics of the dense network, and a layer without which all others see something else."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    nn.init.normal_(model.linear.weight)
    nn.init.constant_(model.layer1[1].bn2.weight, 4)
    model.train()(images)
    return model.eval()


def batches(seed: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(seed)
    return [Batch({"pixel_values": torch.randn(16, 3, 16, 16, generator=generator)}, torch.arange(16) % 3)] * 2


def test_what_is_left_over_of_the_images_is_dealt_out(model: Any) -> None:
    images = batches(1)[0]
    path = find_stack(model)
    uneven = estimate_statistics(
        LayeredModel(model, path, "image_classification"), REMOVED, [images.rows(0, 8), images.rows(8, 9)]
    )
    halves = [
        estimate_statistics(LayeredModel(model, path, "image_classification"), REMOVED, [part])
        for part in (images.rows(0, 4), images.rows(4, 9))
    ]
    for name, tensor in uneven.items():
        torch.testing.assert_close(tensor, (halves[0][name] + halves[1][name]) / 2)
    # One image cannot say how images differ.
    assert estimate_statistics(LayeredModel(model, path, "image_classification"), REMOVED, [images.rows(0, 1)]) == {}


def test_statistics_are_the_mean_over_batches_of_what_comes_in_without_the_layers(model: Any) -> None:
    path = find_stack(model)
    before = copy.deepcopy(model.state_dict())
    data = batches(1)[:1] + batches(2)[:1]
    found = estimate_statistics(LayeredModel(model, path, "causal_lm"), REMOVED, data)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module.training for module in model.modules())

    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    pruned = copy.deepcopy(model)
    remove_layers(pruned, path, REMOVED)
    # The second block that stays in the first stage was the third.
    norm = pruned.layer1[1].bn1
    norm.register_forward_pre_hook(lambda _m, args: seen.append((args[0].mean((0, 2, 3)), args[0].var((0, 2, 3)))))
    for module in pruned.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    with torch.no_grad():
        for batch in data:
            pruned(**batch.inputs)
    for statistic, values in zip(("running_mean", "running_var"), zip(*seen, strict=True), strict=True):
        assert torch.allclose(found[f"layer1.2.bn1.{statistic}"], torch.stack(values).mean(0), atol=1e-5)
    assert not any(name.startswith(("layer1.1.", "layer2.1.")) for name in found)


def test_statistics_that_do_not_help_on_held_out_data_are_not_kept(model: Any) -> None:
    path = find_stack(model)
    noise = [Batch({"pixel_values": 100 * torch.randn(4, 3, 16, 16)}, torch.zeros(4, dtype=torch.long))]
    _, attempt, _ = repair_batch_norms(LayeredModel(model, path, "image_classification"), REMOVED, noise, batches(0))
    assert not attempt.accepted
    assert attempt.reason == "held-out loss or divergence does not fall"


def test_new_statistics_are_kept_where_they_bring_the_model_closer_to_the_dense_one(model: Any) -> None:
    images = batches(0)[0]
    images.labels.copy_(model(**images.inputs).logits.argmax(-1))
    found = repair(LayeredModel(model, find_stack(model), "image_classification"), [images] * 4, REMOVED, "auto")
    attempt = found.attempts[0]
    assert (attempt.repair, attempt.accepted) == ("batch_norm", True)
    assert found.quality is not None
    assert found.quality.before is not None
    assert found.quality.after.perplexity < found.quality.before.perplexity
    assert found.quality.after.kl < found.quality.before.kl
    assert set(found.changes) >= {"bn1.running_mean", "layer2.2.bn2.running_var"}


def test_models_without_batch_norms_say_so(tmp_path: Path) -> None:
    vit = ViTForImageClassification.from_pretrained(write_tiny_vit(tmp_path)).eval()
    found = repair(LayeredModel(vit, find_stack(vit), "image_classification"), batches(0), (2,), "batch_norm")
    assert (found.changes, found.attempts[0].reason) == ({}, "the model has no batch norms")


def write_network(directory: Path) -> Path:
    """A trained-looking network of three stages in `model`; returns the folder of the images it has seen."""
    torch.manual_seed(0)
    config = CifarResNetConfig(
        depths=[4, 3, 2],
        hidden_sizes=[4, 8, 16],
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    write_tiny_vit(directory / "model")
    # Without class folders, so that what is aimed at is what the dense model says.
    images = write_images(directory / "images", (".",), each=64)
    dense = CifarResNetForImageClassification(config)
    processor = AutoImageProcessor.from_pretrained(directory / "model")
    seen = [processor(Image.open(file), return_tensors="pt")["pixel_values"] for file in sorted(images.iterdir())]
    as_after_training(dense, torch.cat(seen)).save_pretrained(directory / "model")
    return images


def compressed(directory: Path, images: Path, target: Target | QualityTarget, repair: str) -> CompressReport:
    return compress(
        str(directory / "model"),
        target,
        directory / repair,
        options=Options(
            method=Method(segments=1, protected=(0, 3, 4, 5, 6), repair=repair),
            calibration=Calibration(str(images), samples=48, batch_size=12),
            evaluation=Evaluation(samples=12),
        ),
        context=RunContext(cache=directory / "cache"),
    )


def test_a_staged_network_is_compressed_and_reloads_with_its_new_statistics(tmp_path: Path) -> None:
    images = write_network(tmp_path)
    report = compressed(tmp_path, images, Target("layers", 2 / 7), "batch_norm")
    assert report.verification.passed
    # Four, two and one layer that keep their shape; one segment was asked for, but none goes across a border.
    assert report.analysis.segments == ((0, 3), (4, 5), (6, 6))
    assert json.loads((tmp_path / "batch_norm/analysis.json").read_text())["segments"] == [[0, 3], [4, 5], [6, 6]]
    assert np.load(tmp_path / "batch_norm/similarity.npz")["segments"].tolist() == [[0, 3], [4, 5], [6, 6]]
    assert report.plan.removed_layers == (1, 2)
    assert [attempt.kind for attempt in report.repair.attempts] == ["batch_norm"]
    assert report.repair.attempts[0].accepted
    card = (tmp_path / "batch_norm/model/README.md").read_text()
    assert "import sglp_core.architectures" in card

    unrepaired = compressed(tmp_path, images, Target("layers", 2 / 7), "none")
    assert unrepaired.plan == report.plan
    # What is proposed is judged as it will be used.
    assert report.proposals[0].harm < unrepaired.proposals[0].harm


def test_a_budget_of_lost_quality_is_asked_of_the_repaired_network(tmp_path: Path) -> None:
    images = write_network(tmp_path)
    anything = QualityTarget("perplexity", 1e6)
    drops = {
        kind: {
            trial.layers_removed: trial.drop
            for trial in compressed(tmp_path, images, anything, kind).quality_target.tried
        }
        for kind in ("none", "batch_norm")
    }
    assert drops["none"].keys() == drops["batch_norm"].keys() == {1, 2}
    # New statistics help after two removals; after one they do not, and are not taken.
    assert drops["batch_norm"][2] < drops["none"][2] / 2
    assert drops["batch_norm"][1] == drops["none"][1]
