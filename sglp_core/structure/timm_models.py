"""Check the configurations of timm models, which transformers wraps, and find the argument that sets their depth.

The families of timm have different names for their depth, and a configuration has it only where it differs from the
default. So the argument is found by trying: it is the one with which `timm.create_model` leaves out the last block of
each list of modules and changes no other tensor.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers.utils import is_timm_available

from sglp_core.errors import UnsafeFormat, UnsupportedArchitecture
from sglp_core.structure.module_lists import lists_in, rows_in

MODEL_TYPE = "timm_wrapper"
WRAPPED = "timm_model"
# The arguments by which families of timm set the number of blocks, in all or in each stage.
DEPTH_ARGUMENTS = ("depth", "depths", "layers")
NEEDED = (
    "this is a timm model, and timm is not installed: pip install 'sglp[timm]', with a torchvision built for the "
    "installed torch"
)


@dataclass(frozen=True)
class Depth:
    """The argument of `timm.create_model` that sets the depth, and the names of the lists that hold the blocks.

    With one list the argument is a number; with several, each list is a stage, and the argument is a list of numbers.
    """

    argument: str
    lists: tuple[str, ...]

    def value_for(self, lengths: Sequence[int]) -> int | list[int]:
        """The value of the argument for lists of these lengths."""
        return list(lengths) if len(self.lists) > 1 else lengths[0]


def is_timm(config: transformers.PretrainedConfig) -> bool:
    """Whether this is the configuration of a timm model."""
    return bool(config.model_type == MODEL_TYPE)


def make_loadable(config: Any) -> None:
    """Check the configuration of a timm model, and complete it so that transformers can build a classifier from it.

    Raises `UnsupportedArchitecture` where timm is not installed or has no such model, and `UnsafeFormat` where
    `model_args` would make timm read other files or download something.
    """
    if not is_timm_available():
        raise UnsupportedArchitecture(NEEDED)
    import timm

    if not timm.is_model(config.architecture):
        raise UnsupportedArchitecture(
            f"timm {timm.__version__} has no model {config.architecture!r}, the architecture in config.json"
        )
    arguments = dict(config.model_args or {})
    # timm writes this argument, but transformers passes it too.
    arguments.pop("num_classes", None)
    # The parameters of `create_model` itself are about where weights come from; all others go to the model.
    refused = sorted(arguments.keys() & (inspect.signature(timm.create_model).parameters.keys()))
    if refused:
        raise UnsafeFormat(
            f"model_args of config.json may only say how the model is built; remove {', '.join(refused)}"
        )
    config.model_args = arguments
    config.architectures = config.architectures or ["TimmWrapperForImageClassification"]


def find_depth(config: Any) -> Depth:
    """The argument that sets the depth of a timm model. Raises `UnsupportedArchitecture` where there is none."""
    dense = _built(config, {})
    shapes = _shapes(dense)
    single = [{name: length} for name, length in lists_in(dense).items()]
    for lists in [*single, *(row for row in rows_in(dense) if len(row) > 1)]:
        lengths = list(lists.values())
        shorter = [max(1, length - 1) for length in lengths]
        if min(lengths) < 1 or shorter == lengths:
            continue
        last = tuple(f"{name}.{length - 1}." for name, length in lists.items() if length > 1)
        expected = {name: shape for name, shape in shapes.items() if not name.startswith(last)}
        for argument in DEPTH_ARGUMENTS:
            depth = Depth(argument, tuple(f"{WRAPPED}.{name}" for name in lists))
            if _shapes_or_none(config, {argument: depth.value_for(shorter)}) == expected:
                return depth
    raise UnsupportedArchitecture(
        f"no argument of timm sets how many blocks {config.architecture} has; looked for one of "
        f"{', '.join(DEPTH_ARGUMENTS)} with which timm.create_model leaves out the last block of a list of modules (or "
        "of each list of a row of them) and changes nothing else"
    )


def set_depth(config: Any, lengths: Sequence[int]) -> None:
    """Make the configuration describe the same model with lists of these lengths. Raises `UnsupportedArchitecture`."""
    depth = find_depth(config)
    config.model_args = {**(config.model_args or {}), depth.argument: depth.value_for(lengths)}


def _built(config: Any, arguments: Mapping[str, int | list[int]]) -> nn.Module:
    import timm

    with torch.device("meta"):
        model: nn.Module = timm.create_model(
            config.architecture, num_classes=config.num_labels, **{**(config.model_args or {}), **arguments}
        )
    return model


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _shapes_or_none(config: Any, arguments: Mapping[str, int | list[int]]) -> dict[str, torch.Size] | None:
    try:
        return _shapes(_built(config, arguments))
    except Exception:
        # The family does not have this argument, or the argument does not take this value.
        return None
