"""Find the stack of removable layers in a model, and what each of them weighs in parameters and FLOPs.

The rule is structural: the stack is the one outermost `ModuleList` with as many entries as the configuration has
layers, or the blocks of its stages (`stages.py`), or of a timm model the blocks that timm can leave out
(`timm_models.py`). Everything here works on the meta device, from the configuration alone.
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
from sglp_core.structure.layer_signature import forms_of, layouts_of
from sglp_core.structure.model_class import meta_model, untrained
from sglp_core.structure.runs import Stage
from sglp_core.structure.stages import (
    Shapes,
    alike,
    blocks_of_stages,
    form_of,
    removable_blocks,
    removable_runs,
    stage_lists,
)
from sglp_core.structure.timm_models import is_timm

StackPath = str | tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """One removable layer; `flops` counts one forward pass of one sequence (or image); `form` is that of
    `stages.form_of` or `layout.forms_of`, `layout` that of `layout.layouts_of`, empty where layers stand in stages.
    Layers of one `kind` keep their parameters in the same classes.
    """

    index: int
    name: str
    parameters: int
    flops: int
    form: str = ""
    kind: str = ""
    layout: str = ""


@dataclass(frozen=True)
class LayerStack:
    """The layers of a model in order.

    `path` is the name of the list of modules that holds them, or, where they stand in several stages, all their names.
    The hidden states change their shape between two `stages`.
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
        """Costs of runs `[L + 1, L + 1]`, infinite where a run cannot go in one piece."""
        allowed = removable_runs(self.stages, [layer.form for layer in self.layers])
        result: np.ndarray = np.where(allowed, costs, np.inf)
        return result

    def can_remove(self, removed: Sequence[int]) -> bool:
        """Whether every run can go in one piece, and every stage and every kind of layer keeps one."""
        gone = set(removed)
        starts = [i for i in sorted(gone) if i - 1 not in gone]
        ends = [i + 1 for i in sorted(gone) if i + 1 not in gone]
        whole = bool(np.isfinite(self.removable(np.zeros((len(self) + 1,) * 2))[starts, ends]).all())
        staged = all(not gone.issuperset(stage.layers) for stage in self.stages)
        return whole and staged and not self.vanished_kind(removed)

    def vanished_kind(self, removed: Sequence[int]) -> list[int]:
        """The layers of a kind of which none would stay, if there is one."""
        gone = set(removed)
        kinds: dict[str, list[int]] = {}
        for layer in self.layers:
            kinds.setdefault(layer.kind, []).append(layer.index)
        return next((indices for indices in kinds.values() if gone.issuperset(indices)), [])

    def sizes(self, kind: str) -> tuple[list[int], int]:
        """Each layer's size and the whole model's, in the unit of a target kind."""
        if kind == "parameters":
            return [layer.parameters for layer in self.layers], self.total_parameters
        if kind == "flops":
            return [layer.flops for layer in self.layers], self.total_flops
        return [1] * len(self.layers), len(self.layers)


def find_stack(model: Any, image_shape: Sequence[int] | None = None) -> StackPath:
    """The name of the list that holds the model's repeated layers, or the names of its layers in stages.

    Raises `UnsupportedArchitecture`, saying what was looked for, where there is none or more than one.
    """
    if is_timm(model.config) or hasattr(model.config, "depths"):
        lists = stage_lists(model)
        stages = blocks_of_stages(model, lists)
        if is_timm(model.config) and len(lists) == 1 and alike(model, stages[0]):
            return lists[0]
        calls = _shapes(model, list(chain(*stages)), example_inputs(model, 1, image_shape))
        return tuple(removable_blocks(model, stages, {name: shapes[0] for name, shapes in calls.items()}))
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedArchitecture(
            f"{type(model).__name__} is an encoder-decoder: it has two stacks of layers, and only models with one "
            "repeated stack can be pruned"
        )
    if getattr(model.config.get_text_config(), "hidden_size_per_layer_input", None):
        raise UnsupportedArchitecture(
            f"{type(model).__name__} has an embedding for each layer outside the layers; looked for layers that stand "
            "alone (hidden_size_per_layer_input is not 0)"
        )
    outermost: dict[str, int] = {}
    for name, module in model.named_modules():
        nested = any(name.startswith(f"{other}.") for other in outermost)
        if isinstance(module, nn.ModuleList) and not nested:
            outermost[name] = len(module)
    found = [name for name, length in outermost.items() if length == expected and length >= 2]
    if len(found) == 1:
        return found[0]
    seen = ", ".join(f"{name} ({length})" for name, length in outermost.items()) or "none"
    raise UnsupportedArchitecture(
        f"{type(model).__name__} has {'no' if not found else 'more than one'} ModuleList with num_hidden_layers = "
        f"{expected} entries (at least 2); looked for one repeated stack of layers, found the lists: {seen}"
    )


def layers_of(model: nn.Module, path: StackPath) -> nn.ModuleList:
    """The layers of a path in order; a new list of the model's own modules, where it has no such list itself."""
    if not isinstance(path, str):
        return nn.ModuleList(model.get_submodule(name) for name in path)
    stack = model.get_submodule(path)
    return stack if isinstance(stack, nn.ModuleList) else nn.ModuleList(stack.children())


def layer_names(model: nn.Module, path: StackPath) -> tuple[str, ...]:
    """The full name of each layer of a path, in order."""
    return tuple(f"{path}.{i}" for i in range(len(layers_of(model, path)))) if isinstance(path, str) else path


def measure_stack(
    config: transformers.PretrainedConfig,
    sequence_length: int,
    image_shape: Sequence[int] | None = None,
    stored_bits: int | None = None,
) -> LayerStack:
    """Parameters and forward FLOPs per layer and for the whole model, from the configuration alone.

    `stored_bits` is the size of its weights. Raises `UnsafeFormat` where they cannot be all of this model, and
    `UnsupportedArchitecture` where no single stack is found, a layer changes the shape of its input, or none can run.
    """
    model = meta_model(config)
    path = find_stack(model, image_shape)
    names = layer_names(model, path)
    modules = layers_of(model, path)
    _require_separate(model, modules)
    kinds = [_kind_of(module) for module in modules]
    # Before the model runs, which leaves traces in some.
    if isinstance(path, str) and not is_timm(config):
        layouts = layouts_of(modules)
        forms = forms_of(model, config, path, layouts, kinds)
    else:
        layouts, forms = ("",) * len(names), [form_of(module) for module in modules]
    # Before anything takes memory: up to here all was on the meta device.
    if stored_bits is not None:
        require_stored(sum(p.numel() for p in model.parameters()), stored_bits)
    try:
        counter, shapes = _counted(model, names, sequence_length, image_shape)
    except Exception:
        # Some models (DeBERTa) decide by the values of tensors, which the meta device does not have.
        model = untrained(config, "cpu")
        with as_unsupported("the model cannot run as its config.json says"):
            counter, shapes = _counted(model, names, sequence_length, image_shape)
    if any(len(calls) != 1 or calls[0][0] != calls[0][1] for calls in shapes.values()):
        raise UnsupportedArchitecture(
            f"the layers of {type(model).__name__} do not each run once and hand on a tensor of the shape they were "
            "given, so they cannot be removed one by one"
        )
    by_module = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    prefix = type(model).__name__
    layers = tuple(
        Layer(
            index=index,
            name=name,
            parameters=sum(p.numel() for p in module.parameters()),
            flops=by_module.get(f"{prefix}.{name}", 0),
            form=forms[index],
            kind=kinds[index],
            layout=layouts[index],
        )
        for index, (name, module) in enumerate(zip(names, modules, strict=True))
    )
    return LayerStack(
        path,
        _stages(path, len(names)),
        layers,
        sum(p.numel() for p in model.parameters()),
        counter.get_total_flops(),
        sequence_length,
    )


def _require_separate(model: nn.Module, layers: nn.ModuleList) -> None:
    owners: dict[int, int] = {}
    for index, layer in enumerate(layers):
        for parameter in layer.parameters():
            if owners.setdefault(id(parameter), index) != index:
                raise UnsupportedArchitecture(
                    f"layers of {type(model).__name__} share their parameters (the layers {owners[id(parameter)]} and "
                    f"{index}), so removing one makes the model no smaller, or leaves others without theirs"
                )


def _kind_of(layer: nn.Module) -> str:
    # Classes without parameters differ by position for other reasons: a stochastic depth that is 0 is often no module.
    return ", ".join(sorted({type(part).__name__ for part in layer.modules() if any(True for _ in part.parameters())}))


def _counted(
    model: Any, names: Sequence[str], sequence_length: int, image_shape: Sequence[int] | None
) -> tuple[FlopCounterMode, dict[str, list[Shapes]]]:
    counter = FlopCounterMode(display=False)
    with counter:
        return counter, _shapes(model, names, example_inputs(model, sequence_length, image_shape))


def _shapes(model: Any, names: Sequence[str], inputs: dict[str, Tensor]) -> dict[str, list[Shapes]]:
    """Shapes of the hidden states that enter and leave each module, for every time it is called."""
    shapes: dict[str, list[Shapes]] = {name: [] for name in names}

    def hook(name: str) -> Any:
        def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            shapes[name].append((layer_input(args, kwargs).shape, layer_output(output).shape))

        return record

    handles = [model.get_submodule(name).register_forward_hook(hook(name), with_kwargs=True) for name in names]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _stages(path: StackPath, count: int) -> tuple[Stage, ...]:
    lists = [""] * count if isinstance(path, str) else [name.rpartition(".")[0] for name in path]
    starts = [i for i in range(count) if i == 0 or lists[i] != lists[i - 1]]
    return tuple(Stage(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True))


def example_inputs(
    model: transformers.PreTrainedModel, sequence_length: int, image_shape: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """One all-zero input on the model's device, in the form its first modality takes.

    `image_shape` is (channels, height, width) of one image; without it, it is what the configuration says.
    """
    device = model.device
    if model.main_input_name == "pixel_values":
        if image_shape is None:
            # Networks of convolutions alone take any size, and their configurations name none.
            size = getattr(model.config, "image_size", 224)
            image_shape = (getattr(model.config, "num_channels", 3), *((size, size) if isinstance(size, int) else size))
        return {"pixel_values": torch.zeros(1, *image_shape, device=device, dtype=model.dtype)}
    return {"input_ids": torch.zeros(1, sequence_length, dtype=torch.long, device=device)}


def layer_input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states a layer was called with: its first tensor, positional or named."""
    hidden = args[0] if args else kwargs["hidden_states"]
    assert isinstance(hidden, Tensor)
    return hidden


def layer_output(output: Any) -> Tensor:
    """The hidden states a layer hands on: the output itself, or the first of a tuple."""
    hidden = output[0] if isinstance(output, tuple) else output
    assert isinstance(hidden, Tensor)
    return hidden
