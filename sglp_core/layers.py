"""Find the stack of removable layers in a model, and what each of them weighs in parameters and FLOPs.

The rule is structural: the stack is the one outermost `ModuleList` with as many entries as the configuration has
layers. Everything here works on the meta device, from the configuration alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sglp_core.errors import UnsupportedArchitecture


@dataclass(frozen=True)
class Layer:
    """One removable layer; `flops` counts one forward pass of one sequence (or image)."""

    index: int
    name: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class LayerStack:
    """The layers of a model in order; `path` is the name of the `ModuleList` that holds them."""

    path: str
    layers: tuple[Layer, ...]
    total_parameters: int
    total_flops: int
    sequence_length: int

    def __len__(self) -> int:
        return len(self.layers)

    def sizes(self, kind: str) -> tuple[list[int], int]:
        """Each layer's size and the whole model's, in the unit of a target kind."""
        if kind == "parameters":
            return [layer.parameters for layer in self.layers], self.total_parameters
        if kind == "flops":
            return [layer.flops for layer in self.layers], self.total_flops
        return [1] * len(self.layers), len(self.layers)


def model_class(config: transformers.PretrainedConfig) -> type[transformers.PreTrainedModel]:
    """The stock class that the configuration names; raises `UnsupportedArchitecture` where transformers has none."""
    names = config.architectures or []
    for name in names:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    raise UnsupportedArchitecture(
        f"config.json names the architectures {names}, and transformers {transformers.__version__} has no such class; "
        "looked for a class of that name in the transformers package (custom code is never run)"
    )


def find_stack(model: Any) -> str:
    """The name of the `ModuleList` that holds the model's repeated layers.

    Raises `UnsupportedArchitecture`, saying what was looked for, where there is none or more than one.
    """
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


def layers_of(model: nn.Module, path: str) -> nn.ModuleList:
    stack = model.get_submodule(path)
    assert isinstance(stack, nn.ModuleList)
    return stack


def measure_stack(
    config: transformers.PretrainedConfig, sequence_length: int, image_shape: Sequence[int] | None = None
) -> LayerStack:
    """Parameters and forward FLOPs per layer and for the whole model, from the configuration alone.

    Raises `UnsupportedArchitecture` where no single stack is found or a layer changes the shape of its input.
    """
    model = meta_model(config)
    path = find_stack(model)
    modules = layers_of(model, path)
    inputs = example_inputs(model, sequence_length, image_shape)
    shapes: list[tuple[torch.Size, torch.Size]] = []

    def record(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        shapes.append((layer_input(args, kwargs).shape, layer_output(output).shape))

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in modules]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(**inputs)
    for handle in handles:
        handle.remove()
    if len(shapes) != len(modules) or any(before != after for before, after in shapes):
        raise UnsupportedArchitecture(
            f"the entries of {path} do not each run once and hand on a tensor of the shape they were given, "
            "so they cannot be removed one by one"
        )
    by_module = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    prefix = type(model).__name__
    layers = tuple(
        Layer(
            index=index,
            name=f"{path}.{index}",
            parameters=sum(p.numel() for p in module.parameters()),
            flops=by_module.get(f"{prefix}.{path}.{index}", 0),
        )
        for index, module in enumerate(modules)
    )
    return LayerStack(
        path, layers, sum(p.numel() for p in model.parameters()), counter.get_total_flops(), sequence_length
    )


def meta_model(config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """The stock model without memory for its weights.

    Eager attention and batched experts: every counter sees their FLOPs, and they need no data to know their shapes.
    """
    try:
        with torch.device("meta"):
            return (
                model_class(config)
                ._from_config(config, attn_implementation="eager", experts_implementation="batched_mm")
                .eval()
            )
    except UnsupportedArchitecture:
        raise
    except Exception as error:
        raise UnsupportedArchitecture(f"the model cannot be built from its config.json: {error}") from error


def example_inputs(
    model: transformers.PreTrainedModel, sequence_length: int, image_shape: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """One all-zero input on the model's device, in the form its first modality takes.

    `image_shape` is (channels, height, width) of one image; without it the configuration must know the size.
    """
    device = model.device
    if model.main_input_name == "pixel_values":
        if image_shape is None:
            size = model.config.image_size
            image_shape = (model.config.num_channels, *((size, size) if isinstance(size, int) else size))
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
