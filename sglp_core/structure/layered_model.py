"""A model with the path of its layers and its task."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from sglp_core.structure.layer_stack import StackPath, layers_of
from sglp_core.tasks import Task


@dataclass(frozen=True)
class LayeredModel:
    """`model` is a module of transformers or timm, or a `StreamedModel`; `path` is where its layers are."""

    model: Any
    path: StackPath
    task: Task

    @property
    def layers(self) -> nn.ModuleList:
        """The modules of the layers, in order."""
        return layers_of(self.model, self.path)
