"""CIFAR networks: the sizes papers state, the names of public checkpoints, and loading by Auto class."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification

from sglp_core.architectures import (
    CifarResNetConfig,
    CifarResNetForImageClassification,
    CifarVGGConfig,
    CifarVGGForImageClassification,
)
from sglp_core.structure.layer_stack import measure_stack
from sglp_core.structure.runs import Stage

PIXELS = (32 * 32, 16 * 16, 8 * 8)
WIDTHS = (16, 32, 64)


@pytest.mark.parametrize(("depth", "millions"), [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85"), (110, "1.7")])
def test_resnets_have_the_parameters_of_the_paper(depth: int, millions: str) -> None:
    blocks = (depth - 2) // 6
    with torch.device("meta"):
        model = CifarResNetForImageClassification(CifarResNetConfig(depths=[blocks] * 3))
    # Table 6 of He et al. 2015.
    assert f"{sum(p.numel() for p in model.parameters()) / 1e6:.{len(millions) - 2}f}" == millions


def test_a_resnet_20_has_the_names_of_public_checkpoints() -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"conv1.weight", "linear.weight", "linear.bias", *(f"bn1.{part}" for part in norm)}
    for stage in (1, 2, 3):
        for block in range(3):
            prefix = f"layer{stage}.{block}"
            expected |= {f"{prefix}.conv1.weight", f"{prefix}.conv2.weight"}
            expected |= {f"{prefix}.bn{number}.{part}" for number in (1, 2) for part in norm}
    assert set(CifarResNetForImageClassification(CifarResNetConfig()).state_dict()) == expected


def test_a_vgg_16_has_13_convolutions_and_one_linear_layer() -> None:
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convolutions = sum(9 * a * b + b + 2 * b for a, b in pairwise(widths))
    with torch.device("meta"):
        model = CifarVGGForImageClassification(CifarVGGConfig())
    assert sum(p.numel() for p in model.parameters()) == convolutions + 512 * 10 + 10


def test_flops_of_a_resnet_56_are_those_of_its_matrices() -> None:
    stack = measure_stack(CifarResNetConfig(depths=[9, 9, 9], architectures=["CifarResNetForImageClassification"]), 1)
    assert stack.stages == (Stage(0, 9), Stage(9, 17), Stage(17, 25))
    # Two for each multiply-add; both convolutions of a block have 3 × 3 × width × width weights.
    blocks = [2 * 2 * 9 * width * width * pixels for width, pixels in zip(WIDTHS, PIXELS, strict=True)]
    assert [stack.layers[stage.start].flops for stage in stack.stages] == blocks
    borders = [2 * 9 * (narrow * wide + wide * wide) * pixels for narrow, wide, pixels in ((16, 32, 256), (32, 64, 64))]
    assert stack.total_flops == 9 * blocks[0] + 8 * (blocks[1] + blocks[2]) + sum(borders) + 2 * (
        9 * 3 * 16 * 1024 + 64 * 10
    )


def test_the_shortcut_of_a_stage_takes_every_second_pixel_and_pads_channels() -> None:
    model = CifarResNetForImageClassification(CifarResNetConfig())
    block = model.layer2[0]
    torch.nn.init.zeros_(block.bn2.weight)
    entering = torch.rand(1, 16, 32, 32)
    leaving = block.eval()(entering)
    assert torch.equal(leaving[:, 8:24], entering[:, :, ::2, ::2])
    assert not leaving[:, :8].any()
    assert not leaving[:, 24:].any()


@pytest.mark.parametrize(
    ("stock", "config"),
    [(CifarResNetForImageClassification, CifarResNetConfig()), (CifarVGGForImageClassification, CifarVGGConfig())],
)
def test_auto_classes_load_what_was_saved(stock: type, config: CifarResNetConfig, tmp_path: Path) -> None:
    model = stock(config).eval()
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(config)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images).logits, loaded(images).logits)
    labels = torch.tensor([1, 2])
    expected = torch.nn.functional.cross_entropy(model(images).logits, labels)
    assert torch.equal(loaded(images, labels=labels).loss, expected)
