"""Trials of plans against hooks on the whole model, and what they bring from the disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from sglp_core.artifact import write
from sglp_core.evaluation.logits import difference
from sglp_core.execution import layerwise, variants
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import Trial, logits_of_variants
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.planning.harm import HarmMeter
from sglp_core.progress import silent_phase
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.tasks import Batch
from tests.sglp_core.execution.placements import batches_for, from_disk, resident, save


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "OPTForCausalLM"])
@pytest.mark.parametrize("removed", [(2,), (1, 3), (0, 2, 3), (3, 4)])
@torch.no_grad()
def test_the_stream_is_as_long_as_the_dense_models_after_every_cut(
    name: str, removed: tuple[int, ...], tmp_path: Path
) -> None:
    model = save(name, tmp_path / "model")
    layers, data = layers_of(model, find_stack(model)), batches_for(model)
    both = [Variant(), Variant(removed)]
    results = logits_of_variants(resident(model), data, both, silent_phase(), Trial(keeps_length=True))
    for batch, (piece,) in zip(data, results, strict=True):
        _, found = piece.logits
        lengths: list[Tensor] = []
        handles = [layer.register_forward_hook(_keep_lengths(lengths)) for layer in layers]
        model(**batch.inputs)
        _remove(handles)
        counted = batch.inputs["attention_mask"].bool().clone()
        counted[:, 0] = False
        ends = [i + 1 for i in removed if i + 1 not in removed and i + 1 < len(layers)]
        handles = [
            layers[end].register_forward_pre_hook(_lengthen(lengths[end - 1], counted), with_kwargs=True)
            for end in ends
        ]
        with bypassed(layers, removed):
            expected = model(**batch.inputs).logits
        _remove(handles)
        assert difference(found[counted], expected[counted]) < 1e-5


def _keep_lengths(lengths: list[Tensor]) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        lengths.append((output[0] if isinstance(output, tuple) else output).norm(dim=-1))

    return hook


def _lengthen(lengths: Tensor, counted: Tensor) -> Any:
    def hook(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        longer = hidden * (lengths / hidden.norm(dim=-1))[counted].mean()
        return ((longer, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": longer})

    return hook


def _remove(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()


def test_trials_from_disk_read_the_layers_once_a_walk_and_a_finder_looks_on(tmp_path: Path) -> None:
    save("LlamaForCausalLM", tmp_path / "model")
    layered = from_disk(tmp_path / "model")
    weights, count = layered.weights, len(layered.layers)
    finder = WriteFinder(layered, batches_for(layered.model)[0])
    finder.start()
    meter = HarmMeter(layered, batches_for(layered.model))

    def read(act: Any) -> int:
        before = weights.bytes_onloaded
        act()
        return weights.bytes_onloaded - before

    outside = read(lambda: list(layered.stored(["model.embed_tokens.weight"])))
    layers = sum(4 * parameter.numel() for parameter in layered.layers.parameters())
    # The head is needed at the exit; the embeddings not again, as all parts have entered.
    assert [read(lambda: meter([(1,), (2, 3)], 2)) for _ in range(2)] == [layers + outside] * 2
    writes: list[Any] = []
    assert read(lambda: writes.extend(finder.writes(index) for index in range(count))) == outside
    alone = WriteFinder(resident(save("LlamaForCausalLM", tmp_path / "again")), batches_for(layered.model)[0])
    assert writes == [alone.writes(index) for index in range(count)]
    assert read(finder.undoes_factors) == 0


def test_from_disk_the_head_gets_as_many_positions_of_a_probe_as_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save("LlamaForCausalLM", tmp_path / "model")
    layered = from_disk(tmp_path / "model")
    # Copies of the logits of two positions.
    monkeypatch.setattr(layerwise, "free_bytes", lambda _device: 2 * layerwise.COPIES_OF_LOGITS * 4 * 99)
    positions: list[tuple[int, ...]] = []
    layered.model.lm_head.register_forward_hook(lambda _module, args, _output: positions.append(args[0].shape[:2]))
    ids = torch.arange(15).view(3, 5)
    logits = write._probe_logits(layered, {"input_ids": ids}, Variant((2,)))
    # The last of a piece twice.
    assert positions == [(1, 3), (1, 3), (1, 2)] * 3
    with bypassed(layers_of(model, find_stack(model)), (2,)), torch.no_grad():
        assert difference(logits, model(input_ids=ids).logits) < 1e-5


@torch.no_grad()
def test_images_do_not_enter_the_model_once_for_every_variant_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4, image_size=16)
    model = ViTForImageClassification(config).eval()
    images = torch.randn(4, 3, 16, 16)
    data = [Batch({"pixel_values": images}, torch.zeros(4, dtype=torch.long))]
    monkeypatch.setattr(variants, "LOGITS_AT_ONCE", images.numel())
    cuts = [Variant((index,)) for index in range(1, 6)]
    entered: list[int] = []
    layered = LayeredModel(model, find_stack(model), "image_classification")
    assert layered.layerwise is not None
    layered.entered(data)
    handle = model.register_forward_pre_hook(
        lambda _module, _args, inputs: entered.append(len(inputs["pixel_values"])), with_kwargs=True
    )
    ((piece,),) = logits_of_variants(layered, data, cuts, silent_phase(), Trial())
    found = list(piece.logits)
    handle.remove()
    assert max(entered) == len(images)
    for cut, logits in zip(cuts, found, strict=True):
        with bypassed(layers_of(model, find_stack(model)), cut.removed):
            assert difference(logits, model(images).logits) < 1e-5
