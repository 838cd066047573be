"""Write the model without the removed layers, and note what it must reproduce: in memory, or from shard to shard."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sglp_core.artifact import files
from sglp_core.artifact.shards import copy_kept_layers
from sglp_core.artifact.verify import Written
from sglp_core.errors import as_unsupported
from sglp_core.evaluation.logits import probe_logits
from sglp_core.evaluation.streamed import leaving_states
from sglp_core.loading.loaded_model import Opened
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.planning.plan import Plan
from sglp_core.removal.bypass import bypassed
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.removal.weight_changes import Changes, apply, swapped
from sglp_core.structure.layer_stack import LayerStack, layers_of
from sglp_core.tasks import Batch


@dataclass(frozen=True)
class Pruned:
    """The written model, the map from old to new layer numbers, and how many parameters are left."""

    written: Written
    layer_map: dict[int, int]
    parameters: int


def prune(opened: Opened, plan: Plan, changes: Changes, probe: dict[str, Tensor], directory: Path) -> Pruned:
    """Remove the plan's layers, change the repaired weights, and write the result; `opened` has no weights after it.

    Raises `UnsupportedArchitecture` where the model does not run without them.
    """
    write = _from_shards if isinstance(opened.model, StreamedModel) else _in_memory
    pruned = write(opened, plan.removed_layers, changes, probe, directory)
    opened.release()
    return pruned


def _in_memory(
    opened: Opened, removed: tuple[int, ...], changes: Changes, probe: dict[str, Tensor], directory: Path
) -> Pruned:
    on_cpu = opened.model.device.type == "cpu"
    with bypassed(layers_of(opened.model, opened.stack.path), removed), swapped(opened.model, changes):
        expected = probe_logits(opened.model, probe)
    apply(opened.model, changes)
    with as_unsupported("the model cannot run without the layers that were removed"):
        layer_map = remove_layers(opened.model, opened.stack.path, removed)
        found = probe_logits(opened.model, probe)
    files.write_model(opened.model, opened.source, directory)
    parameters = sum(p.numel() for p in opened.model.parameters())
    written = Written(
        directory, opened.task, probe, found, expected, on_cpu=on_cpu, **_layouts(opened.stack, layer_map)
    )
    return Pruned(written, layer_map, parameters)


def _from_shards(
    opened: Opened, removed: tuple[int, ...], changes: Changes, probe: dict[str, Tensor], directory: Path
) -> Pruned:
    assert not changes
    dense: StreamedModel = opened.model
    expected = _streamed_logits(dense, probe, removed)
    layer_map = copy_kept_layers(opened.source.directory, dense.path, len(opened.stack), removed, directory)
    files.carry_over(opened.source, directory)
    found = _streamed_logits(StreamedModel(directory, dense.scratch), probe, ())
    parameters = opened.stack.total_parameters - sum(opened.stack.layers[i].parameters for i in removed)
    written = Written(
        directory, opened.task, probe, found, expected, offloaded=True, **_layouts(opened.stack, layer_map)
    )
    return Pruned(written, layer_map, parameters)


def _layouts(stack: LayerStack, layer_map: dict[int, int]) -> dict[str, Any]:
    layouts = tuple(stack.layers[old].layout for old in layer_map)
    return {"path": stack.path, "layouts": layouts} if isinstance(stack.path, str) and all(layouts) else {}


@torch.no_grad()
def _streamed_logits(model: StreamedModel, probe: dict[str, Tensor], removed: tuple[int, ...]) -> Tensor:
    batch = Batch(probe, torch.empty(0))
    ((hidden,),) = leaving_states(model, [batch], [removed])
    with model.outside():
        return model.logits(batch, hidden)
