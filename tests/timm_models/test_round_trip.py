"""Layers removed from timm models, written, and read again by transformers and by timm itself: both must give what
timm's own dense model gives with the identity in the place of the removed blocks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from sglp_core.artifact.verify import Written, verify
from sglp_core.evaluation.logits import difference, probe_logits
from sglp_core.execution.variant import bypassed
from sglp_core.fresh_process import FreshProcesses
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Calibration, Options
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.run_context import RunContext
from sglp_core.structure.config import read_config
from sglp_core.structure.layer_stack import layers_of, measure_stack
from tests.timm_models.tiny_timm import CONVNEXT, RESNET, SIZE, SWIN, VIT, read_tiny_timm, write_tiny_timm

CONVIT = {"img_size": SIZE, "patch_size": 8, "embed_dim": 8, "depth": 6, "num_heads": 4, "local_up_to_layer": 2}
PVT = {"depths": [3, 1, 4, 2], "embed_dims": [8, 16, 24, 32], "num_heads": [1, 2, 2, 2]}
# The configuration, how many layers there are, the blocks removed, and what must then be said of the depth.
CASES: dict[str, tuple[dict[str, Any], int, dict[tuple[int, ...], tuple[str, Any]]]] = {
    "vit_tiny_patch16_224": (VIT, 6, {(2, 4): ("depth", 4), (0, 5): ("depth", 4)}),
    "deit_tiny_distilled_patch16_224": (VIT, 6, {(1, 2, 3): ("depth", 3)}),
    "cait_xxs24_224": (VIT, 6, {(2, 3): ("depth", 4)}),
    "eva02_tiny_patch14_224": ({**VIT, "num_heads": 2}, 6, {(1, 4): ("depth", 4)}),
    # The last four of six have an attention of another kind, and only they are layers.
    "convit_tiny": (CONVIT, 4, {(1,): ("depth", 5), (0, 2): ("depth", 4)}),
    "convnext_atto": (CONVNEXT, 10, {(0, 6): ("depths", [2, 1, 3, 2]), (4, 9): ("depths", [3, 1, 3, 1])}),
    # The block that begins a stage has a projection, and stays.
    "resnet18": (RESNET, 6, {(0, 3): ("layers", [2, 1, 3, 2]), (2, 4): ("layers", [3, 1, 2, 2])}),
    "resnetv2_50": (RESNET, 6, {(0, 3): ("layers", [2, 1, 3, 2])}),
    "pvt_v2_b0": (PVT, 10, {(0, 5): ("depths", [2, 1, 3, 2])}),
    # Blocks alternate in form: two neighbours go together, or what ends a stage.
    "swin_tiny_patch4_window7_224": (SWIN, 8, {(2, 3): ("depths", [2, 4]), (1, 7): ("depths", [1, 5])}),
    "swinv2_tiny_window8_256": (SWIN, 8, {(5, 6): ("depths", [2, 4])}),
}


def opened_model(directory: Path) -> LoadedModel:
    return load_model(
        str(directory), Options(calibration=Calibration(sequence_length=16)), RunContext(cache=directory / "cache")
    )


@pytest.mark.parametrize("architecture", CASES)
def test_a_pruned_timm_model_reloads_as_planned(architecture: str, tmp_path: Path, fresh: FreshProcesses) -> None:
    arguments, count, removals = CASES[architecture]
    dense = write_tiny_timm(tmp_path / "dense", architecture, arguments)
    probe = {"pixel_values": torch.randn(2, 3, SIZE, SIZE)}
    written = []
    for removed, (argument, said) in removals.items():
        loaded = opened_model(dense)
        model, stack = loaded.model, loaded.stack
        assert len(stack) == count
        assert stack.can_remove(removed)
        with bypassed(layers_of(model, stack.path), removed):
            expected = probe_logits(model, probe)
        assert difference(expected, without_blocks(dense, [stack.layers[i].name for i in removed], probe)) < 1e-4
        remove_layers(model, stack.path, removed)
        directory = tmp_path / "-".join(map(str, removed))
        model.save_pretrained(directory)
        written.append(Written(directory, "image_classification", probe, probe_logits(model, probe), expected))

        assert model.config.model_args == {**read_config(dense).model_args, argument: said}
        smaller = measure_stack(read_config(directory), 1, (3, SIZE, SIZE))
        left = [layer for layer in stack.layers if layer.index not in removed]
        assert smaller.total_parameters == stack.total_parameters - sum(stack.layers[i].parameters for i in removed)
        assert [layer.parameters for layer in smaller.layers] == [layer.parameters for layer in left]
        by_timm = read_tiny_timm(directory)
        assert set(load_file(directory / "model.safetensors")) == set(by_timm.state_dict())
        with torch.no_grad():
            assert difference(by_timm(probe["pixel_values"]), expected) < 1e-4
    for proof in verify(written, fresh):
        assert proof.problems == []


def without_blocks(directory: Path, names: list[str], probe: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of timm's own model with the identity in the place of some blocks."""
    model = read_tiny_timm(directory)
    for name in names:
        model.set_submodule(name.removeprefix("timm_model."), Identity())
    with torch.no_grad():
        return model(probe["pixel_values"])


class Identity(nn.Module):
    """Takes whatever blocks take beside the hidden states."""

    def forward(self, hidden: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        return hidden


@pytest.mark.parametrize("removed", [(3,), (2, 3, 4), (4, 6)])
def test_a_removal_that_would_turn_the_alternation_round_is_forbidden(removed: tuple[int, ...], tmp_path: Path) -> None:
    stack = opened_model(write_tiny_timm(tmp_path / "dense", "swin_tiny_patch4_window7_224", SWIN)).stack
    assert not stack.can_remove(removed)
