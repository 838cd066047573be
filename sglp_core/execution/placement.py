"""Whether a loaded model can stay on the device as it is, or has to be onloaded from CPU memory layer by layer."""

from typing import Any

import torch

from sglp_core.execution.available_memory import free_bytes
from sglp_core.execution.native_types import computing_type

# The rest of the device's memory is for activations and the gradients of a layer.
DEVICE_SHARE = 0.6


def fits(model: Any, device: torch.device) -> bool:
    """Whether the device has room for all weights, and computes in their type."""
    if computing_type(model.dtype, device) != model.dtype:
        return False
    if device.type == "cpu":
        return True
    weights: int = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    return weights <= DEVICE_SHARE * free_bytes(device)
