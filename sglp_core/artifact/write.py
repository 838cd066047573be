"""Write the model without the removed layers, from memory or shard by shard, with the logits that it must reproduce."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sglp_core.artifact import files
from sglp_core.artifact.shards import copy_kept_layers
from sglp_core.artifact.stored_changes import with_changes
from sglp_core.artifact.verify import Written
from sglp_core.errors import as_unsupported
from sglp_core.evaluation.logits import probe_logits
from sglp_core.execution.disk_home import DiskHome, empty_model
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import logits_of_variants
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.execution.weight_changes import apply, swapped
from sglp_core.execution.weights import OnloadedWeights
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.progress import silent_phase
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.structure.layer_stack import LayerStack, layers_of
from sglp_core.tasks import Batch, example_labels, logit_rows


@dataclass(frozen=True)
class Artifact:
    """The written model, the map from old to new layer numbers, and the number of parameters that are left."""

    written: Written
    layer_map: dict[int, int]
    parameters: int


def write_artifact(loaded: LoadedModel, variant: Variant, probe: dict[str, Tensor], directory: Path) -> Artifact:
    """Remove the variant's layers, apply its weight changes, and write the result; then neither has weights any more.

    Raises `UnsupportedArchitecture` where the model cannot run without the removed layers, and `InsufficientStorage`.
    """
    write = _in_memory if loaded.weights.in_memory else _from_shards
    artifact = write(loaded, variant, probe, directory)
    variant.release()
    loaded.release()
    return artifact


def _in_memory(loaded: LoadedModel, variant: Variant, probe: dict[str, Tensor], directory: Path) -> Artifact:
    removed, changes = variant.removed, variant.changes
    on_cpu = loaded.model.device.type == "cpu"
    with bypassed(loaded.layers, removed), swapped(loaded.model, changes):
        expected = probe_logits(loaded.model, probe)
    apply(loaded.model, changes)
    with as_unsupported("the model cannot run without the layers that were removed"):
        layer_map = remove_layers(loaded.model, loaded.path, removed)
        pruned = probe_logits(loaded.model, probe)
    files.write_model(loaded.model, loaded.source, directory)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    path, signatures = _expected_layers(loaded.stack, layer_map)
    written = Written(directory, loaded.task, probe, pruned, expected, on_cpu=on_cpu, path=path, signatures=signatures)
    return Artifact(written, layer_map, parameters)


def _from_shards(loaded: LoadedModel, variant: Variant, probe: dict[str, Tensor], directory: Path) -> Artifact:
    removed = variant.removed
    expected = _probe_logits(loaded, probe, variant)
    assert isinstance(loaded.path, str)
    with tempfile.TemporaryDirectory(dir=loaded.scratch, prefix="changed-") as folder:
        tensors = with_changes(loaded, loaded.tensors, variant.changes, Path(folder))
        layer_map = copy_kept_layers(tensors, loaded.path, len(loaded.stack), removed, directory)
    files.copy_processor_files(loaded.source, directory)
    model, path = empty_model(directory)
    weights = OnloadedWeights(model, layers_of(model, path), DiskHome(directory, model, path), loaded.device)
    pruned = _probe_logits(
        LayeredModel(model, path, loaded.task, home=weights, scratch=loaded.scratch), probe, Variant()
    )
    parameters = loaded.stack.total_parameters - sum(loaded.stack.layers[i].parameters for i in removed)
    path, signatures = _expected_layers(loaded.stack, layer_map)
    written = Written(directory, loaded.task, probe, pruned, expected, offloaded=True, path=path, signatures=signatures)
    return Artifact(written, layer_map, parameters)


def _expected_layers(stack: LayerStack, layer_map: dict[int, int]) -> tuple[str, tuple[str, ...]]:
    """Path and signatures of the layers that stay; both are empty where layers are in stages."""
    signatures = tuple(stack.layers[old].signature for old in layer_map)
    return (stack.path, signatures) if isinstance(stack.path, str) and all(signatures) else ("", ())


def _probe_logits(model: LayeredModel, probe: dict[str, Tensor], variant: Variant) -> Tensor:
    """Logits of the probe on the CPU, computed in the type that the weights are stored in; kept in files."""
    stored = LayeredModel(model.model, model.path, model.task, home=model.weights.as_stored(), scratch=model.scratch)
    batch = Batch(probe, example_labels(probe, model.task, 1))
    keep, kept = stored.intermediates.keep, list[Tensor]()
    # A piece of a causal language model has its last row twice.
    rows = slice(None, -1 if model.task == "causal_lm" else None)
    for pieces in logits_of_variants(stored, [batch], [variant], silent_phase()):
        for piece in pieces:
            # Each is freed before the next exists.
            kept += (keep(each[:, rows].flatten(0, -2)) for each in piece.logits)
    # Only here, where what is outside of the layers is no longer in memory.
    return keep(torch.cat(kept).view(*logit_rows(probe, model.task), -1)).cpu()
