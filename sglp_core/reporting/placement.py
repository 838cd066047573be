"""Where the weights lay while a job ran, how often they were read, and how much memory that took."""

from dataclasses import dataclass
from typing import Literal

import torch

from sglp_core.evaluation.footprint import peak_resident_bytes
from sglp_core.execution.layered_model import LayeredModel


@dataclass(frozen=True)
class PlacementSection:
    """Where the weights lay, and what computed with them. Peaks are those of the process until the report."""

    weights: Literal["device", "memory", "disk"]
    """`device`: all on the device that computes; else brought to it layer by layer, from CPU memory or from disk."""
    device: str
    """The type of the device that computed, such as `cpu` or `cuda`."""
    stored_type: str
    """The type of most weights as they are stored."""
    computing_type: str
    """The type that these were computed with in."""
    weights_read: float | None
    """How often all weights were brought to the device, until the result was written; null where they were there."""
    peak_memory_bytes: int
    """The most CPU memory that was resident, in bytes, with pages of mapped files."""
    peak_device_memory_bytes: int | None
    """The most memory of the device that was allocated, in bytes; null where the device is the CPU."""


def placement_section(model: LayeredModel) -> PlacementSection:
    """The section as it is now."""
    weights, device = model.weights, model.device
    return PlacementSection(
        weights="device" if weights.resident else "memory" if weights.in_memory else "disk",
        device=device.type,
        stored_type=_name(weights.as_stored().dtype),
        computing_type=_name(weights.dtype),
        weights_read=None if weights.resident else round(weights.bytes_onloaded / weights.total_bytes, 1),
        peak_memory_bytes=peak_resident_bytes(),
        peak_device_memory_bytes=None if device.type == "cpu" else torch.accelerator.max_memory_allocated(device),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
