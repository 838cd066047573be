"""Whole jobs on timm models: loaded, measured, cut, verified, estimated; and configurations that are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sglp_core import Calibration, Evaluation, Method, Target, compress, estimate
from sglp_core.errors import SGLPError
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Options
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.reporting.report import CompressReport
from sglp_core.run_context import RunContext
from tests.sglp_core.data.tiny_images import CLASSES, write_images
from tests.timm_models.tiny_timm import CONVNEXT, RESNET, SIZE, VIT, read_tiny_timm, timm, write_tiny_timm


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "all")


def compressed(model: Path, images: Path, output: Path, **settings: Any) -> CompressReport:
    return compress(
        str(model),
        Target("layers", 0.34),
        output,
        options=Options(
            calibration=Calibration(str(images), samples=12, batch_size=6),
            evaluation=Evaluation(samples=8),
            **settings,
        ),
        context=RunContext(cache=output / "cache"),
    )


def test_a_vit_is_compressed_and_repaired_and_timm_reads_the_result(images: Path, tmp_path: Path) -> None:
    dense = write_tiny_timm(tmp_path / "model", "vit_tiny_patch16_224", VIT)
    report = compressed(dense, images, tmp_path / "out", method=Method(repair="least_squares"))
    assert report.verification.passed
    assert report.repair.attempts
    assert all(attempt.built for attempt in report.repair.attempts)
    assert report.analysis.sample_unit == "image"
    rows = {row.metric: row for row in report.table}
    assert (rows["layers"].before, rows["layers"].after) == (6, 3)
    model = read_tiny_timm(tmp_path / "out/model")
    assert len(model.blocks) == 3
    assert sum(p.numel() for p in model.parameters()) == rows["parameters"].after
    config = json.loads((tmp_path / "out/model/config.json").read_text())
    assert config["label_names"] == list(CLASSES)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["versions"]["timm"] == timm.__version__


def test_names_of_classes_stay_where_there_are_as_many_as_layers(tmp_path: Path) -> None:
    model = loaded(write_tiny_timm(tmp_path / "m", "vit_tiny_patch16_224", {**VIT, "depth": len(CLASSES)}), tmp_path)
    remove_layers(model.model, model.stack.path, (1,))
    written = model.model.config.to_dict()
    assert written["model_args"]["depth"] == len(CLASSES) - 1
    assert written["label_names"] == list(CLASSES)


def test_a_resnet_is_compressed_with_its_batch_norms_estimated_anew(images: Path, tmp_path: Path) -> None:
    dense = write_tiny_timm(tmp_path / "model", "resnet18", RESNET)
    report = compressed(dense, images, tmp_path / "out", method=Method(repair="batch_norm"))
    assert report.verification.passed
    assert [attempt.kind for attempt in report.repair.attempts] == ["batch_norm"]


def test_pixels_are_those_of_timms_own_transform(tmp_path: Path) -> None:
    dense = write_tiny_timm(tmp_path / "model", "convnext_atto", CONVNEXT)
    image = Image.linear_gradient("L").convert("RGB")
    settings = timm.data.resolve_model_data_config(read_tiny_timm(dense))
    expected = timm.data.create_transform(**settings, is_training=False)(image)
    found = loaded(dense, tmp_path).processor(image, return_tensors="pt")["pixel_values"]
    assert found.shape == (1, 3, SIZE, SIZE)
    assert torch.equal(found[0], expected)


@pytest.mark.parametrize(
    ("architecture", "arguments"), [("vit_tiny_patch16_224", VIT), ("convnext_atto", CONVNEXT), ("resnet18", RESNET)]
)
def test_an_estimate_needs_no_weights(architecture: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    dense = write_tiny_timm(tmp_path / "model", architecture, arguments)
    weights = dense / "model.safetensors"
    values = sum(p.numel() for p in read_tiny_timm(dense).parameters())
    header = int.from_bytes(weights.read_bytes()[:8], "little") + 8
    whole = weights.stat().st_size
    with weights.open("r+b") as file:
        # Everything after the header is now a hole.
        file.truncate(header)
        file.truncate(whole)
    found = estimate(
        str(dense), tmp_path / "out", target=Target("layers", 0.34), context=RunContext(cache=tmp_path)
    ).estimate
    assert found.parameters == values
    assert found.target.reachable
    assert found.peak_memory_bytes > found.weight_bytes


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"architecture": "efficientnet_b0"}, "unsupported_architecture", "looked for one of depth, depths, layers"),
        ({"architecture": "poolformer_s12"}, "unsupported_architecture", "how many blocks poolformer_s12 has"),
        # It takes `depths`, but the last block of a stage is an attention, so that fewer blocks are other blocks.
        ({"architecture": "edgenext_xx_small"}, "unsupported_architecture", "how many blocks edgenext_xx_small has"),
        ({"architecture": "no_such_net"}, "unsupported_architecture", "has no model 'no_such_net'"),
        ({"architecture": "local-dir:/"}, "unsupported_architecture", "has no model 'local-dir:/'"),
        ({"architecture": "hf-hub:an/other"}, "unsupported_architecture", "has no model 'hf-hub:an/other'"),
        ({"model_args": {"checkpoint_path": "weights.pth"}}, "unsafe_format", "remove checkpoint_path"),
        ({"model_args": {"pretrained": True, "cache_dir": "/"}}, "unsafe_format", "remove cache_dir, pretrained"),
        ({"model_args": {"patch_size": "a"}}, "unsupported_architecture", "cannot be built from its config.json"),
        ({"model_args": ["depth", 3]}, "unsupported_architecture", "model_args"),
    ],
)
def test_what_cannot_be_cut_or_must_not_be_built_is_refused(
    changes: dict[str, Any], code: str, message: str, tmp_path: Path
) -> None:
    dense = write_tiny_timm(tmp_path / "model", "convnext_atto", CONVNEXT)
    config = json.loads((dense / "config.json").read_text())
    (dense / "config.json").write_text(json.dumps({**config, "model_args": {}, **changes}))
    for action in (loaded, lambda path, cache: estimate(str(path), cache / "out", context=RunContext(cache=cache))):
        with pytest.raises(SGLPError, match=message) as refused:
            action(dense, tmp_path)
        assert refused.value.code == code


@pytest.mark.parametrize(("architecture", "arguments"), [("vit_tiny_patch16_224", VIT), ("convnext_atto", CONVNEXT)])
def test_no_timm_model_is_streamed(architecture: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    dense = write_tiny_timm(tmp_path / "model", architecture, arguments)
    with pytest.raises(SGLPError, match="timm models are not streamed") as refused:
        loaded(dense, tmp_path, memory="streaming")
    assert refused.value.code == "unsupported_architecture"


def loaded(directory: Path, cache: Path, **settings: Any) -> Any:
    options = Options(calibration=Calibration(sequence_length=16))
    return load_model(str(directory), options, RunContext(cache=cache, **settings))
