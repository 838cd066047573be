"""Weights that stay on disk: the tensors of one group are read when it is needed, and freed after it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from sglp_core.checkpoints.stored_tensors import StoredTensor, layer_number, stack_prefix, stored_tensors
from sglp_core.errors import UnsupportedArchitecture
from sglp_core.execution.finite_weights import require_finite, require_loaded
from sglp_core.execution.weights import Group
from sglp_core.structure.config import read_config
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.structure.model_class import model_class
from sglp_core.structure.timm_models import is_timm

TORCH_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


class DiskHome:
    """The checkpoint of a model directory.

    Raises `UnsupportedArchitecture` for checkpoints whose tensor names do not show which layer a tensor belongs to.
    """

    in_memory = False

    def __init__(self, directory: Path, model: Any, path: str) -> None:
        self._model = model
        tensors = stored_tensors(directory)
        self.dtype: torch.dtype = model.dtype
        self.total_bytes = sum(tensor.size_bytes for tensor in tensors)
        prefix = stack_prefix((tensor.name for tensor in tensors), path, len(layers_of(model, path)))
        self._tensors: dict[Group, list[StoredTensor]] = {}
        for tensor in tensors:
            self._tensors.setdefault(layer_number(tensor.name, prefix), []).append(tensor)

    @contextmanager
    def holds(self, group: Group, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Read the group's tensors into the modules; the caller puts the empty ones back."""
        empty = [(module, name) for module in modules for name, _ in module.named_parameters(recurse=False)]
        state = {tensor.name: _read(tensor) for tensor in self._tensors.get(group, ())}
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            convert_and_load_state_dict_in_model(
                self._model,
                state,
                LoadStateDictConfig(
                    dtype=self.dtype,
                    dtype_plan=self._model._get_dtype_plan(self.dtype),
                    weight_mapping=get_model_conversion_mapping(self._model),
                ),
                None,
            )
            state.clear()
            if group is None:
                self._model.tie_weights()
        finally:
            if shown:
                logging.enable_progress_bar()
        paths = {id(module): path for path, module in self._model.named_modules()}
        loaded = {f"{paths[id(module)]}.{name}": getattr(module, name) for module, name in empty}
        require_loaded(name for name, value in loaded.items() if value.is_meta)
        require_finite(loaded.items())
        yield

    def prefetch(self, group: Group) -> None:
        """Let the system read the group's bytes ahead, where it can."""
        if hasattr(os, "posix_fadvise"):
            for tensor in self._tensors.get(group, ()):
                with tensor.file.open("rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), tensor.begin, tensor.size_bytes, os.POSIX_FADV_WILLNEED)


def empty_model(directory: Path) -> tuple[Any, str]:
    """The model of a directory with weights that take no memory, and the path of its layers.

    Raises `UnsupportedArchitecture` for timm models, quantised models and layers in stages.
    """
    config = read_config(directory)
    if is_timm(config):
        raise UnsupportedArchitecture("timm models are not streamed from disk; the model has to fit in memory")
    if getattr(config, "quantization_config", None):
        raise UnsupportedArchitecture(
            "a model with a quantization_config is not streamed from disk; it has to fit in memory"
        )
    dtypes = (TORCH_TYPES.get(tensor.dtype) for tensor in stored_tensors(directory))
    dtype = config.dtype or next(dtype for dtype in dtypes if dtype and dtype.is_floating_point)
    with init_empty_weights(include_buffers=False):
        model = model_class(config)._from_config(config, dtype=dtype).eval()
    # Emptying the weights has given tied ones a tensor each.
    model.tie_weights()
    model.requires_grad_(False)
    path = find_stack(model)
    if not isinstance(path, str):
        raise UnsupportedArchitecture(
            f"{type(model).__name__} has its layers in stages, and only models with one stack are streamed from disk; "
            "the model has to fit in memory"
        )
    return model, path


def _read(tensor: StoredTensor) -> Tensor:
    """A tensor read from its file into new memory."""
    if tensor.dtype not in TORCH_TYPES:
        raise UnsupportedArchitecture(
            f"tensors of type {tensor.dtype} are not streamed from disk; the model has to fit in memory"
        )
    content = torch.empty(tensor.size_bytes, dtype=torch.uint8)
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.begin)
        view, filled = content.numpy().data, 0
        while filled < tensor.size_bytes:
            # One read returns at most 2 GiB.
            filled += file.readinto(view[filled:]) or 0
    return content.view(TORCH_TYPES[tensor.dtype]).view(tensor.shape)
