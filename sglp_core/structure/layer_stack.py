"""Find the stack of removable layers in a model, and the parameters and FLOPs of each, from the configuration alone.

The stack is the only outermost `ModuleList` with as many entries as the configuration has layers, or the blocks of its
stages (`stages.py`), or the blocks that timm can leave out (`timm_models.py`). Models are built on the meta device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sglp_core.checkpoints.limits import require_stored
from sglp_core.errors import UnsupportedArchitecture, as_unsupported
from sglp_core.structure.config_renumbering import needed_layer_types
from sglp_core.structure.layer_shapes import call_shapes, require_alike
from sglp_core.structure.layer_signature import layer_signatures, position_signatures
from sglp_core.structure.model_class import meta_model, untrained_model
from sglp_core.structure.module_lists import other_towers
from sglp_core.structure.runs import Stage, runs_of
from sglp_core.structure.stages import (
    Shapes,
    blocks_of_stages,
    positional_attributes,
    removable_blocks,
    removable_runs,
    same_parameter_shapes,
    stage_lists,
)
from sglp_core.structure.timm_models import is_timm

StackPath = str | tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """One removable layer.

    `flops` counts one forward pass of one sequence (or image). Layers of one of the `kinds` have the same classes of
    modules with parameters, or a type of which the configuration needs a layer. `signature` is that of
    `layer_signatures`, empty where layers are in stages. `position_signature` is what the model class derives from the
    layer's position: that of `position_signatures`, or the `positional_attributes` of a block in a stage.
    """

    index: int
    name: str
    parameters: int
    flops: int
    position_signature: str = ""
    kinds: tuple[str, ...] = ("",)
    signature: str = ""


@dataclass(frozen=True)
class LayerStack:
    """The layers of a model in order.

    `path` is the name of the list of modules that holds them, or the names of all layers where they are in stages. The
    hidden states change their shape between two `stages`.
    """

    path: StackPath
    stages: tuple[Stage, ...]
    layers: tuple[Layer, ...]
    total_parameters: int
    total_flops: int
    sequence_length: int

    def __len__(self) -> int:
        return len(self.layers)

    def removable(self, costs: np.ndarray) -> np.ndarray:
        """Costs of runs `[L + 1, L + 1]`, infinite where a run cannot be removed."""
        allowed = removable_runs(self.stages, [layer.position_signature for layer in self.layers])
        result: np.ndarray = np.where(allowed, costs, np.inf)
        return result

    def can_remove(self, removed: Sequence[int]) -> bool:
        """Whether each run can be removed, and at least one layer of each stage and of each kind stays."""
        runs = runs_of(removed)
        costs = self.removable(np.zeros((len(self) + 1,) * 2))
        runs_removable = all(np.isfinite(costs[run]) for run in runs)
        stages_kept = all(not set(removed).issuperset(stage.layers) for stage in self.stages)
        return runs_removable and stages_kept and not self.vanished_kind(removed)

    def vanished_kind(self, removed: Sequence[int]) -> list[int]:
        """All layers of one kind of which none would stay; empty where each kind keeps a layer."""
        kinds: dict[str, list[int]] = {}
        for layer in self.layers:
            for kind in layer.kinds:
                kinds.setdefault(kind, []).append(layer.index)
        return next((indices for indices in kinds.values() if set(removed).issuperset(indices)), [])

    def sizes(self, target_kind: str) -> tuple[list[int], int]:
        """Each layer's size and that of the whole model, in the unit of a target kind."""
        if target_kind == "parameters":
            return [layer.parameters for layer in self.layers], self.total_parameters
        if target_kind == "flops":
            return [layer.flops for layer in self.layers], self.total_flops
        return [1] * len(self.layers), len(self.layers)


def find_stack(model: Any, image_shape: Sequence[int] | None = None) -> StackPath:
    """The name of the list that holds the model's repeated layers, or the names of its layers in stages.

    Raises `UnsupportedArchitecture`, saying what was looked for, where there is none or more than one.
    """
    if is_timm(model.config) or hasattr(model.config, "depths"):
        lists = stage_lists(model)
        stages = blocks_of_stages(model, lists)
        if is_timm(model.config) and len(lists) == 1 and same_parameter_shapes(model, stages[0]):
            return lists[0]
        calls = call_shapes(model, list(chain(*stages)), example_inputs(model, 1, image_shape))
        return tuple(removable_blocks(model, stages, {name: shapes[0] for name, shapes in calls.items()}))
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedArchitecture(
            f"{type(model).__name__} is an encoder-decoder: it has two stacks of layers, and only models with one "
            "repeated stack can be pruned"
        )
    if getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None):
        raise UnsupportedArchitecture(
            f"{type(model).__name__} has an embedding for each layer outside the layers "
            "(hidden_size_per_layer_input is not 0); looked for layers without parameters elsewhere"
        )
    outermost: dict[str, int] = {}
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{other}.") for other in outermost)
        if isinstance(module, nn.ModuleList) and not nested:
            outermost[name] = len(module)
    elsewhere = other_towers(model)
    candidates = [
        name
        for name, length in outermost.items()
        if length == expected and length >= 2 and not name.startswith(elsewhere)
    ]
    if len(candidates) == 1:
        return candidates[0]
    seen = ", ".join(f"{name} ({length})" for name, length in outermost.items()) or "none"
    raise UnsupportedArchitecture(
        f"{type(model).__name__} has {'more than one' if candidates else 'no'} ModuleList with num_hidden_layers = "
        f"{expected} entries (at least 2); looked for one repeated stack of layers, found the lists: {seen}"
    )


def layers_of(model: nn.Module, path: StackPath) -> nn.ModuleList:
    """The layers at a path, in order; where they are not in one `ModuleList`, a new list of the same modules."""
    if not isinstance(path, str):
        return nn.ModuleList(model.get_submodule(name) for name in path)
    stack = model.get_submodule(path)
    return stack if isinstance(stack, nn.ModuleList) else nn.ModuleList(stack.children())


def layer_names(model: nn.Module, path: StackPath) -> tuple[str, ...]:
    """The full name of each layer at a path, in order."""
    return tuple(f"{path}.{i}" for i in range(len(layers_of(model, path)))) if isinstance(path, str) else path


def measure_stack(
    config: transformers.PretrainedConfig,
    sequence_length: int,
    image_shape: Sequence[int] | None = None,
    stored_bits: int | None = None,
) -> LayerStack:
    """Parameters and forward FLOPs per layer and for the whole model, from the configuration alone.

    `image_shape` is (channels, height, width); `stored_bits` is the size of the weight files. Raises `UnsafeFormat`
    where the files are too small for the model, and `UnsupportedArchitecture` where there is no single stack, a layer
    changes the shape of its input, or the model cannot run.
    """
    model = meta_model(config)
    path = find_stack(model, image_shape)
    names = layer_names(model, path)
    modules = layers_of(model, path)
    _require_separate(model, modules)
    kinds = [_kind_of(module) for module in modules]
    # Before the model runs, because running sets attributes in some.
    if isinstance(path, str) and not is_timm(config):
        signatures = layer_signatures(modules)
        by_position = position_signatures(model, config, path, signatures, kinds)
    else:
        signatures, by_position = ("",) * len(names), [positional_attributes(module) for module in modules]
    parameters = sum(p.numel() for p in model.parameters())
    # Up to here everything was on the meta device; counting FLOPs may need memory for the weights.
    if stored_bits is not None:
        require_stored(parameters, stored_bits)
    flops, total_flops = _count_flops(model, config, names, sequence_length, image_shape)
    needed = _needed_types(config, len(names))
    layers = tuple(
        Layer(
            index=index,
            name=name,
            parameters=sum(p.numel() for p in module.parameters()),
            flops=flops[index],
            position_signature=by_position[index],
            kinds=(kinds[index], *needed[index]),
            signature=signatures[index],
        )
        for index, (name, module) in enumerate(zip(names, modules, strict=True))
    )
    return LayerStack(path, _stages(path, len(names)), layers, parameters, total_flops, sequence_length)


def _require_separate(model: nn.Module, layers: nn.ModuleList) -> None:
    owners: dict[int, int] = {}
    for index, layer in enumerate(layers):
        for parameter in layer.parameters():
            if owners.setdefault(id(parameter), index) != index:
                raise UnsupportedArchitecture(
                    f"the layers {owners[id(parameter)]} and {index} of {type(model).__name__} share their parameters, "
                    "so removing only one of them does not make the model smaller"
                )


def _kind_of(layer: nn.Module) -> str:
    # Some modules without parameters exist only at some positions: a stochastic depth of 0 is often left out.
    return ", ".join(sorted({type(part).__name__ for part in layer.modules() if any(True for _ in part.parameters())}))


def _needed_types(config: transformers.PretrainedConfig, count: int) -> list[list[str]]:
    """For each layer its type, where the configuration needs a layer of this type; else nothing."""
    text_config = config.get_text_config()
    types = getattr(text_config, "layer_types", None) or ()
    needed = needed_layer_types(text_config) if len(types) == count else set()
    return [[each] if each in needed else [] for each in types] if needed else [[]] * count


def _count_flops(
    model: Any,
    config: transformers.PretrainedConfig,
    names: Sequence[str],
    sequence_length: int,
    image_shape: Sequence[int] | None,
) -> tuple[list[int], int]:
    """Forward FLOPs of each layer and of the whole model, which must run each layer once and keep its shape."""
    try:
        counter, shapes = _counted(model, names, sequence_length, image_shape)
    except Exception:
        # Some models (DeBERTa) branch on the values of tensors, which the meta device does not have.
        model = untrained_model(config, "cpu")
        with as_unsupported("the model cannot run as its config.json says"):
            counter, shapes = _counted(model, names, sequence_length, image_shape)
    require_alike(model, shapes, None if model.main_input_name == "pixel_values" else sequence_length)
    by_module = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    return [by_module.get(f"{type(model).__name__}.{name}", 0) for name in names], counter.get_total_flops()


def _counted(
    model: Any, names: Sequence[str], sequence_length: int, image_shape: Sequence[int] | None
) -> tuple[FlopCounterMode, dict[str, list[Shapes]]]:
    counter = FlopCounterMode(display=False)
    with counter:
        return counter, call_shapes(model, names, example_inputs(model, sequence_length, image_shape))


def _stages(path: StackPath, count: int) -> tuple[Stage, ...]:
    lists = [""] * count if isinstance(path, str) else [name.rpartition(".")[0] for name in path]
    starts = [i for i in range(count) if i == 0 or lists[i] != lists[i - 1]]
    return tuple(Stage(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True))


def example_inputs(
    model: transformers.PreTrainedModel, sequence_length: int, image_shape: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """One input of zeros on the model's device: token ids `[1, T]` or an image `[1, C, H, W]`.

    `image_shape` is (channels, height, width); without it, that of the configuration is used.
    """
    device = model.device
    if model.main_input_name == "pixel_values":
        if image_shape is None:
            image_shape = _configured_image_shape(model.config)
        return {"pixel_values": torch.zeros(1, *image_shape, device=device, dtype=model.dtype)}
    return {"input_ids": torch.zeros(1, sequence_length, dtype=torch.long, device=device)}


def _configured_image_shape(config: Any) -> Sequence[int]:
    if is_timm(config):
        return tuple((config.pretrained_cfg or {}).get("input_size", (3, 224, 224)))
    # Purely convolutional networks take images of any size, and their configurations have none.
    size = getattr(config, "image_size", 224)
    return (getattr(config, "num_channels", 3), *((size, size) if isinstance(size, int) else size))
