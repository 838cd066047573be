"""Weights that stay on disk: the tensors of one group are read when it is needed, and freed after it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from sglp_core.checkpoints.stored_tensors import StoredTensor, layer_number, stored_tensors
from sglp_core.checkpoints.tensor_values import read_tensor
from sglp_core.checkpoints.weight_checks import require_finite, require_loaded
from sglp_core.errors import UnsupportedArchitecture
from sglp_core.execution.loaded_tensors import loading_type, tensors_loaded_by, tie
from sglp_core.execution.weights import Group
from sglp_core.structure.config import read_config
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.structure.model_class import model_class
from sglp_core.structure.timm_models import is_timm

# The variable by which transformers can be kept from loading with threads.
NO_THREADS = "HF_DEACTIVATE_ASYNC_LOAD"


class DiskHome:
    """The checkpoint of a model directory; `loaded` are the tensors that its class loads from it.

    Raises `UnsupportedArchitecture` for checkpoints whose tensor names do not show which layer a tensor belongs to, and
    the errors of `tensors_loaded_by`.
    """

    in_memory = False

    def __init__(self, directory: Path, model: Any, path: str) -> None:
        self._model = model
        self.loaded = tensors_loaded_by(model, directory)
        self.dtype = self.loaded.dtype
        self.bytes_onloaded = 0
        self.total_bytes = sum(tensor.size_bytes for tensor in self.loaded.tensors)
        prefix = self.loaded.stack_prefix(path, len(layers_of(model, path)))
        self._tensors: dict[Group, list[StoredTensor]] = {}
        for tensor in self.loaded.tensors:
            self._tensors.setdefault(layer_number(tensor.name, prefix), []).append(tensor)

    @contextmanager
    def holds(self, group: Group, modules: Iterable[nn.Module]) -> Iterator[None]:
        """Read the group's tensors into the modules; the caller puts the empty ones back."""
        empty = [(module, name) for module in modules for name, _ in module.named_parameters(recurse=False)]
        state = {tensor.name: read_tensor(tensor) for tensor in self._tensors.get(group, ())}
        with _without_bar_and_threads():
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
            tie(self._model, self.loaded)
        paths = {id(module): path for path, module in self._model.named_modules()}
        # Nothing here may hold the tensors, which the caller frees one by one.
        named = [(f"{paths[id(module)]}.{name}", module, name) for module, name in empty]
        require_loaded(path for path, module, name in named if getattr(module, name).is_meta)
        require_finite((path, getattr(module, name)) for path, module, name in named)
        yield

    def prefetch(self, group: Group) -> None:
        """Let the system read the group's bytes ahead, where it can."""
        if hasattr(os, "posix_fadvise"):
            for tensor in self._tensors.get(group, ()):
                with tensor.file.open("rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), tensor.begin, tensor.size_bytes, os.POSIX_FADV_WILLNEED)


@contextmanager
def _without_bar_and_threads() -> Iterator[None]:
    """No progress bar of transformers, and none of its threads: they would have nothing to read, and take memory."""
    shown, threaded = logging.is_progress_bar_enabled(), os.environ.get(NO_THREADS)
    logging.disable_progress_bar()
    os.environ[NO_THREADS] = "1"
    try:
        yield
    finally:
        if threaded is None:
            del os.environ[NO_THREADS]
        if shown:
            logging.enable_progress_bar()


def empty_model(directory: Path) -> tuple[Any, str]:
    """The model of a directory with weights that take no memory, and the path of its layers.

    Raises `UnsupportedArchitecture` for timm models and layers in stages.
    """
    config = read_config(directory)
    if is_timm(config):
        raise UnsupportedArchitecture("timm models are not streamed from disk; the model has to fit in memory")
    dtype = loading_type(config, stored_tensors(directory))
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
