"""Logits of a probe, and the tolerance when two models are compared by them."""

from typing import Any

import torch
from torch import Tensor

from sglp_core.tasks import logits_in

# Largest difference allowed, relative to the largest logit: a few units in the last place of each type, times depth.
TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 8e-2}
# How many logits are compared at a time, each with copies in float32.
COMPARED_AT_ONCE = 2**19


@torch.no_grad()
def probe_logits(model: Any, probe: dict[str, Tensor]) -> Tensor:
    """Logits of the probe on the CPU, in the model's own type."""
    # A model with its weights on disk reports the device `meta`; it computes on the CPU.
    device = "cpu" if model.device.type == "meta" else model.device
    return logits_in(model(**{name: tensor.to(device) for name, tensor in probe.items()})).cpu()


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors, relative to the largest number of the second."""
    if a.shape != b.shape:
        return float("inf")
    largest = [
        torch.stack([(x.float() - y.float()).abs().max(), y.float().abs().max()])
        for x, y in zip(a.flatten().split(COMPARED_AT_ONCE), b.flatten().split(COMPARED_AT_ONCE), strict=True)
    ]
    # The maximum of tensors is NaN where one is.
    apart, scale = torch.stack(largest).amax(0)
    return float(apart / scale.clamp_min(1e-30))
