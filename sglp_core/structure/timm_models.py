"""Models of timm, which transformers runs in a wrapper of its own: what their configuration may say, and where it says
how many layers there are.

Every family of timm has its own name for its depth, and a configuration names it only where it is not the usual one. So
the argument is found by trying: it is the one with which `timm.create_model` leaves out the last block of each list of
modules, and changes no other tensor.
"""

import inspect
from collections.abc import Sequence
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
# What the families of timm call the number of their blocks, or those of each stage.
DEPTH_ARGUMENTS = ("depth", "depths", "layers")
NEEDED = (
    "this is a model of timm, and timm is not installed: pip install 'sglp[timm]', with a torchvision that is made for "
    "the installed torch"
)


@dataclass(frozen=True)
class Depth:
    """The argument of `timm.create_model` that says the depth, and the names of the lists that hold the blocks.

    One list is a single stack, and the argument is a number; of several each is a stage, and it is a list.
    """

    argument: str
    lists: tuple[str, ...]

    def says(self, lengths: Sequence[int]) -> int | list[int]:
        """The value of the argument for lists of these lengths."""
        return list(lengths) if len(self.lists) > 1 else lengths[0]


def is_timm(config: transformers.PretrainedConfig) -> bool:
    """Whether this is the configuration of a timm model."""
    return bool(config.model_type == MODEL_TYPE)


def make_loadable(config: Any) -> None:
    """Check the configuration of a timm model, and make it one that transformers can build a classifier from.

    Raises `UnsupportedArchitecture` where timm is not installed or has no such model, and `UnsafeFormat` where
    `model_args` would have timm read other files or fetch something.
    """
    if not is_timm_available():
        raise UnsupportedArchitecture(NEEDED)
    import timm

    if not timm.is_model(config.architecture):
        raise UnsupportedArchitecture(
            f"timm {timm.__version__} has no model {config.architecture!r}; looked for the architecture of config.json "
            "among the models it contains"
        )
    arguments = dict(config.model_args or {})
    # timm writes this one, and transformers passes it a second time.
    arguments.pop("num_classes", None)
    # What timm's factory takes itself is where weights lie and what is done with them; the rest goes to the model.
    refused = sorted(arguments.keys() & (inspect.signature(timm.create_model).parameters.keys()))
    if refused:
        raise UnsafeFormat(f"model_args of config.json may say how a model is built, and not {', '.join(refused)}")
    config.model_args = arguments
    config.architectures = config.architectures or ["TimmWrapperForImageClassification"]


def find_depth(config: Any) -> Depth:
    """Where the depth of a timm model is said. Raises `UnsupportedArchitecture` where no argument says it."""
    dense = _built(config, {})
    shapes = _shapes(dense)
    single = [{name: length} for name, length in lists_in(dense).items()]
    for lists in [*single, *(row for row in rows_in(dense) if len(row) > 1)]:
        lengths = list(lists.values())
        shorter = [max(1, length - 1) for length in lengths]
        if min(lengths) < 1 or shorter == lengths:
            continue
        last = tuple(f"{name}.{length - 1}." for name, length in lists.items() if length > 1)
        wanted = {name: shape for name, shape in shapes.items() if not name.startswith(last)}
        for argument in DEPTH_ARGUMENTS:
            found = Depth(argument, tuple(f"{WRAPPED}.{name}" for name in lists))
            if _shapes_or_none(config, {argument: found.says(shorter)}) == wanted:
                return found
    raise UnsupportedArchitecture(
        f"no argument of timm says how many blocks {config.architecture} has; looked for one of "
        f"{', '.join(DEPTH_ARGUMENTS)} with which timm.create_model leaves out the last block of a list of modules (or "
        "of each list of a row of them) and changes nothing else"
    )


def say_depth(config: Any, lengths: Sequence[int]) -> None:
    """Make the configuration describe the same model with lists of these lengths. Raises `UnsupportedArchitecture`."""
    depth = find_depth(config)
    config.model_args = {**(config.model_args or {}), depth.argument: depth.says(lengths)}


def _built(config: Any, arguments: dict[str, Any]) -> nn.Module:
    import timm

    with torch.device("meta"):
        model: nn.Module = timm.create_model(
            config.architecture, num_classes=config.num_labels, **{**(config.model_args or {}), **arguments}
        )
    return model


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _shapes_or_none(config: Any, arguments: dict[str, Any]) -> dict[str, torch.Size] | None:
    try:
        return _shapes(_built(config, arguments))
    except Exception:
        # An argument that is not this family's, or a value that is not this argument's.
        return None
