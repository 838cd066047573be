"""Where the weights of a model lie: on disk, in CPU memory, or on the device, by their size and what is free."""

from pathlib import Path
from typing import Any

import torch

from sglp_core.checkpoints.safetensors_header import weight_files
from sglp_core.execution.available_memory import available_bytes, free_bytes
from sglp_core.execution.native_types import computing_type
from sglp_core.options import Memory

# The rest of the memory is for activations, the gradients of a layer, and the libraries.
WEIGHTS_SHARE = 0.6
# The rest of the device's memory is for activations and the gradients of a layer.
DEVICE_SHARE = 0.6


def must_stream(memory: Memory, directory: Path) -> bool:
    """Whether the weights of a model directory stay on disk; with `auto`, where they would fill most of the memory."""
    if memory != "auto":
        return memory == "streaming"
    weights = sum(file.stat().st_size for file in weight_files(directory))
    return weights > WEIGHTS_SHARE * available_bytes()


def fits(model: Any, device: torch.device) -> bool:
    """Whether the device has room for all weights, and computes in their type."""
    if computing_type(model.dtype, device) != model.dtype:
        return False
    if device.type == "cpu":
        return True
    weights: int = sum(tensor.nbytes for tensor in model.parameters())
    return weights <= DEVICE_SHARE * free_bytes(device)
