"""The batch norms of a model that average what they see."""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sglp_core.structure.layer_stack import StackPath, layer_names


def batch_norms_that_stay(model: nn.Module, path: StackPath, removed: Sequence[int] = ()) -> dict[str, _BatchNorm]:
    """By name, all but those of removed layers."""
    names = layer_names(model, path)
    gone = tuple(f"{names[index]}." for index in removed)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and not name.startswith(gone)
    }
