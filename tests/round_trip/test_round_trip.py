"""Layers removed, written, reloaded in a fresh process: every row must give the logits of the bypassed model."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from sglp_core import architectures
from sglp_core.artifact.verify import Written, verify
from sglp_core.evaluation.logits import probe_logits
from sglp_core.execution.variant import bypassed
from sglp_core.fresh_process import FreshProcesses
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.structure.layer_stack import LayerStack, find_stack, layers_of, measure_stack
from sglp_core.tasks import task_of
from tests.round_trip.models import CASES, GROUPED, HEADS, HYBRIDS, STAGED_CASES, SWIN, types


@pytest.mark.parametrize("name", [*CASES, *HYBRIDS])
def test_a_pruned_model_reloads_as_planned(name: str, tmp_path: Path, fresh: FreshProcesses) -> None:
    written = []
    for removed in ((2, 5), (0, 3), (4, 7)) if name in CASES else ((2, 5), (3, 4), (1, 2, 3)):
        model, stack = small_model(name, (CASES | HYBRIDS)[name])
        if not stack.can_remove(removed):
            # The last attention, or the last experts.
            assert stack.vanished_kind(removed)
            continue
        written.append(write_pruned(model, stack, removed, tmp_path / "-".join(map(str, removed))))
    assert len(written) >= 2
    for proof in verify(written, fresh):
        assert proof.problems == []


def test_models_with_other_heads_reload_as_planned(tmp_path: Path, fresh: FreshProcesses) -> None:
    """In one process, as what lies under the heads is tested above."""
    written = [
        write_pruned(*small_model(name, settings), (2, 5), tmp_path / str(number))
        for number, (name, settings) in enumerate(HEADS)
    ]
    proofs = zip(HEADS, verify(written, fresh), strict=True)
    assert [(name, proof.problems) for (name, _), proof in proofs if proof.problems] == []


def small_model(name: str, settings: dict[str, Any]) -> tuple[Any, LayerStack]:
    torch.manual_seed(0)
    stock = getattr(transformers, name)
    model = stock(stock.config_class(**settings, architectures=[name])).eval()
    return model, measure_stack(deepcopy(model.config), 20)


def write_pruned(model: Any, stack: LayerStack, removed: tuple[int, ...], directory: Path) -> Written:
    path = stack.path
    if model.main_input_name == "pixel_values":
        probe = {"pixel_values": torch.randn(2, 3, 16, 16)}
    else:
        probe = {"input_ids": torch.randint(5, 99, (2, 20))}
    with bypassed(layers_of(model, path), removed):
        expected = probe_logits(model, probe)
    remove_layers(model, path, removed)
    model.save_pretrained(directory)
    signatures = tuple(layer.signature for layer in stack.layers if layer.index not in removed)
    logits, task = probe_logits(model, probe), task_of(type(model), model.config)
    return Written(directory, task, probe, logits, expected, path=str(path), signatures=signatures)


def test_what_the_service_says_of_architectures_is_what_is_tested_here() -> None:
    told = json.loads((Path(__file__).parents[2] / "api" / "architectures.json").read_text())["tested"]
    found = []
    for name, settings in (*((name, {}) for name in (*CASES, *HYBRIDS, *STAGED_CASES)), *HEADS):
        stock = getattr(transformers, name, None) or getattr(architectures, name)
        task = task_of(stock, stock.config_class(**settings))
        found.append({"class": name, "model_type": stock.config_class.model_type, "task": task})
    assert told == found


def test_a_window_in_the_wrong_layer_is_seen_though_the_logits_agree(tmp_path: Path, fresh: FreshProcesses) -> None:
    torch.manual_seed(0)
    kinds = types("sfsfsfsf")
    # Longer than the probe: all layers see all of it.
    values = {**GROUPED, "use_sliding_window": True, "sliding_window": 512, "layer_types": kinds}
    config = transformers.Qwen2Config(**values, architectures=["Qwen2ForCausalLM"])
    model = transformers.Qwen2ForCausalLM(config).eval()
    stack = measure_stack(deepcopy(config), 20)
    probe = {"input_ids": torch.randint(5, 99, (2, 20))}
    with bypassed(layers_of(model, stack.path), (1, 2)):
        expected = probe_logits(model, probe)
    remove_layers(model, stack.path, (1, 2))
    model.config.layer_types = kinds[:6]
    model.config.layer_types[1:3] = kinds[2:0:-1]
    model.save_pretrained(tmp_path / "model")
    signatures = tuple(layer.signature for layer in stack.layers if layer.index not in (1, 2))
    artifact = Written(
        tmp_path / "model",
        "causal_lm",
        probe,
        probe_logits(model, probe),
        expected,
        path="model.layers",
        signatures=signatures,
    )
    (proof,) = verify([artifact], fresh)
    assert proof.reload_difference == 0
    assert proof.other_layers == (1, 2)
    assert "config.json" in proof.problems[0]


def test_half_precision_hides_no_small_difference(tmp_path: Path, fresh: FreshProcesses) -> None:
    """GPT-2 can weigh attention by the number of the layer, which no entry of the configuration says layer by layer."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(**CASES["GPT2LMHeadModel"], scale_attn_by_inverse_layer_idx=True)
    model = transformers.GPT2LMHeadModel(config).eval().bfloat16()
    probe = {"input_ids": torch.randint(5, 99, (2, 20))}
    with bypassed(layers_of(model, "transformer.h"), (2, 5)):
        expected = probe_logits(model, probe)
    remove_layers(model, "transformer.h", (2, 5))
    model.save_pretrained(tmp_path / "model")
    artifact = Written(tmp_path / "model", "masked_lm", probe, probe_logits(model, probe), expected)
    (proof,) = verify([artifact], fresh)
    assert 0 < max(proof.reload_difference, proof.bypass_difference) < 8e-2
    assert proof.problems


def randomised(model: Any) -> Any:
    """Batch norms that have seen something: fresh ones are almost the identity, and a wrong one would not show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


@pytest.mark.parametrize("name", STAGED_CASES)
def test_a_staged_model_reloads_as_planned(name: str, tmp_path: Path, fresh: FreshProcesses) -> None:
    settings, removals = STAGED_CASES[name]
    stock = getattr(transformers, name, None) or getattr(architectures, name)
    probe = {"pixel_values": torch.randn(2, 3, 64, 64)}
    written = []
    for removed in removals:
        torch.manual_seed(0)
        model = randomised(stock(stock.config_class(**settings)))
        before = sum(p.numel() for p in model.parameters())
        model.config.architectures = [name]
        stack = measure_stack(model.config, 1)
        assert stack.path == find_stack(model)
        assert stack.can_remove(removed)
        with bypassed(layers_of(model, stack.path), removed):
            expected = probe_logits(model, probe)
        remove_layers(model, stack.path, removed)
        assert sum(model.config.depths) == sum(settings["depths"]) - len(removed)
        assert before - sum(p.numel() for p in model.parameters()) == sum(stack.layers[i].parameters for i in removed)
        left = stack.total_flops - sum(stack.layers[i].flops for i in removed)
        assert measure_stack(model.config, 1).total_flops == left
        directory = tmp_path / "-".join(map(str, removed))
        model.save_pretrained(directory)
        written.append(Written(directory, "image_classification", probe, probe_logits(model, probe), expected))
    for proof in verify(written, fresh):
        assert proof.problems == []


@pytest.mark.parametrize("removed", [(3,), (2, 3, 4), (4, 6)])
def test_a_removal_that_would_turn_the_alternation_round_is_forbidden_and_verification_would_see_it(
    removed: tuple[int, ...], tmp_path: Path, fresh: FreshProcesses
) -> None:
    torch.manual_seed(0)
    model = transformers.SwinForImageClassification(transformers.SwinConfig(**SWIN, initializer_range=0.5)).eval()
    model.config.architectures = ["SwinForImageClassification"]
    stack = measure_stack(model.config, 1)
    assert not stack.can_remove(removed)
    probe = {"pixel_values": torch.randn(2, 3, 64, 64)}
    with bypassed(layers_of(model, stack.path), removed):
        expected = probe_logits(model, probe)
    remove_layers(model, stack.path, removed)
    model.save_pretrained(tmp_path / "model")
    artifact = Written(tmp_path / "model", "image_classification", probe, probe_logits(model, probe), expected)
    (proof,) = verify([artifact], fresh)
    assert proof.problems
