"""Fit a projection anew whose output passes a norm before it reaches the residual stream.

A norm lets through the direction of what enters it and not its length, so the projection is fitted to the direction
from which the norm would make what is wanted, as long as what enters is now. What length is wanted beside that is one
factor for the norm itself, where the stream is a sum (Gemma); in a post-norm model every length is the norm's own.
"""

from typing import Any

import torch
from torch import Tensor

from sglp_core.repair.fold import fold, fold_change, has_shift
from sglp_core.repair.refit import Refit
from sglp_core.repair.residual_writes import Write

# Channels that the norm makes smaller than this share of the mean cannot be steered.
LEAST_CHANNEL = 1e-3


class RefitThroughNorm:
    """Normal equations for the projection `inner`, whose output the norm of `write` takes."""

    def __init__(self, model: Any, write: Write, inner: Write) -> None:
        """Raises `NoForm` where too many channels enter the projection."""
        module = model.get_submodule(inner.module)
        size, features = module.weight.shape[::-1] if inner.form == "conv1d" else module.weight.shape
        self.inner = inner
        self._model, self._write = model, write
        self._norm = model.get_submodule(write.module)
        self._refit = Refit(features, size, has_shift(model, inner))
        self._lengths, self._count = 0.0, 0

    @torch.no_grad()
    def add(
        self, features: Tensor, entered: Tensor, written: Tensor, handed_on: Tensor, wanted: Tensor, *, held_out: bool
    ) -> None:
        """What enters the projection `[N, F]`, what enters and leaves the norm, what its layer hands on and what it
        should hand on `[N, D]`."""
        direction, length = self._wanted(entered.double(), written.double() + wanted.double() - handed_on.double())
        self._refit.add(features, entered, direction, held_out=held_out)
        if not held_out:
            self._lengths += float(length.sum())
            self._count += len(length)

    def changes(self) -> dict[str, Tensor]:
        """New weights of the projection, and of the norm where it has no bias. Raises as `Refit.solve` does."""
        new = fold_change(self._model, self.inner, *self._refit.solve())
        if not has_shift(self._model, self._write):
            new |= fold(self._model, self._write, torch.tensor(self._lengths / self._count))
        return new

    def _wanted(self, entered: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """What should enter the norm `[N, D]` so that it makes what is wanted but for its length, and that `[N]`."""
        weight = (self._norm.weight.double() + self._write.offset) * self._write.gain
        bias = self._norm.bias.double() * self._write.gain if has_shift(self._model, self._write) else 0.0
        mean = entered.mean(-1, keepdim=True) if self._centres(entered) else torch.zeros_like(entered[:, :1])
        scale = (entered - mean).square().mean(-1, keepdim=True).sqrt().clamp_min(1e-30)
        steered = weight.abs() > LEAST_CHANNEL * weight.abs().mean()
        normed = torch.where(steered, (wanted - bias) / torch.where(steered, weight, 1.0), (entered - mean) / scale)
        if self._centres(entered):
            normed = normed - normed.mean(-1, keepdim=True)
        length = normed.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-30)
        return mean + scale * normed / length, length[:, 0]

    def _centres(self, entered: Tensor) -> bool:
        """Whether the norm takes the mean off, as a LayerNorm does and an RMSNorm does not."""
        probe = entered[:1].to(self._norm.weight.dtype)
        moved = self._norm(probe + probe.abs().max())
        return bool(torch.allclose(moved.float(), self._norm(probe).float(), rtol=1e-2, atol=1e-2))
