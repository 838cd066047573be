"""Random timm models of a few thousand weights, saved as timm saves its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.sglp_core.data.tiny_images import CLASSES

timm = pytest.importorskip("timm", reason="timm is not on the path; `make test` runs these tests with it")

SIZE = 32
VIT = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": 6, "num_heads": 4}
# (3, 1, 4, 2) blocks: ratios of stages, depths and layers are all different.
RESNET = {"layers": [3, 1, 4, 2], "channels": [8, 16, 24, 32]}
CONVNEXT = {"depths": [3, 1, 4, 2], "dims": [8, 16, 24, 32]}
SWIN = {"img_size": SIZE, "patch_size": 2, "window_size": 4, "embed_dim": 16, "depths": [2, 6], "num_heads": [2, 2]}


def stirred(model: nn.Module) -> Any:
    """A model no part of which is the identity: fresh scales of layers and last norms are almost that, or are."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def write_tiny_timm(directory: Path, architecture: str, arguments: dict[str, Any]) -> Path:
    """Save a random model of CLASSES for images of SIZE × SIZE pixels, as `timm` does for a hub."""
    model = stirred(timm.create_model(architecture, num_classes=len(CLASSES), **arguments))
    timm.models.save_for_hf(
        model,
        directory,
        model_config={"label_names": list(CLASSES)},
        model_args=arguments,
        safe_serialization=True,
        data_config={"input_size": (3, SIZE, SIZE)},
    )
    return directory


def read_tiny_timm(directory: Path) -> Any:
    """The model of a directory, read by timm alone."""
    return timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
