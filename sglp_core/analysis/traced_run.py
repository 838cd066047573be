"""What a trace measures of hidden states and gradients. Everything stays on the device until its batch is over."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.errors import BadCalibration
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.progress import Phase
from sglp_core.structure.runs import Stage
from sglp_core.tasks import Batch

POSITIONS_PER_BATCH = 256


@dataclass(frozen=True)
class TracedRun:
    """The arguments of `trace`, complete."""

    model: LayeredModel
    batches: Sequence[Batch]
    similarity: SimilarityAccumulator
    generator: torch.Generator
    stages: Sequence[Stage]
    progress: Phase


def counted_positions(batch: Batch, hidden: Tensor) -> Tensor:
    """Which samples of hidden states `[B, T, D]` count, as a mask `[B, T]`: no padding, and not a text's first token.

    In many models the first position has a massive activation that does not depend on the text. An image is one sample,
    and the mask of images is `[B]`.
    """
    mask = batch.inputs.get("attention_mask")
    if mask is None:
        return torch.ones(hidden.shape[0], dtype=torch.bool)
    counted = mask.bool().cpu().clone()
    counted[:, 0] = False
    return counted


def vectors(hidden: Tensor) -> Tensor:
    """Hidden states `[B, T, D]` unchanged; feature maps `[B, C, H, W]` flattened to one vector an image."""
    return hidden.flatten(1) if hidden.ndim == 4 else hidden


def draw_positions(counted: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of at most 256 samples that count, drawn from the whole batch, rising."""
    candidates = counted.flatten().nonzero().flatten()
    order = torch.randperm(len(candidates), generator=generator)[:POSITIONS_PER_BATCH]
    return candidates[order.sort().values]


def cosine_and_angle(before: Tensor, after: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine of a layer's input and output, and their angle over π, each the mean over the samples that count."""
    similar = nn.functional.cosine_similarity(vectors(before.detach()).float(), vectors(after.detach()).float(), dim=-1)
    # By multiplication, as choosing elements by a mask would wait for the device.
    counts = counted.to(similar.device, similar.dtype)
    counts = counts.reshape(*counts.shape, *[1] * (similar.ndim - counts.ndim)).expand(similar.shape)
    similar = similar.clamp(-1, 1)
    return (similar * counts).sum() / counts.sum(), (similar.arccos() / torch.pi * counts).sum() / counts.sum()


def skip_angles(starts: Sequence[Tensor], end: Tensor) -> Tensor:
    """The angle over π between `end` and each start, all `[samples, D]`, mean over samples; float64."""
    similar = nn.functional.cosine_similarity(torch.stack(list(starts)).float(), end.float(), dim=-1)
    return (similar.clamp(-1, 1).arccos() / torch.pi).mean(1).double()


def skip_losses(starts: Sequence[Tensor], end: Tensor, gradient: Tensor) -> Tensor:
    """Σ over tokens (or images) of |⟨∂L/∂h_end, h_end − h_start⟩| for each start, float64."""
    gradient = vectors(gradient)
    change = [torch.linalg.vecdot(gradient, vectors((end - start).float())).abs().sum() for start in starts]
    return torch.stack(change).double()


def gradient_sums(gradient: Tensor, parameter: Tensor) -> Tensor:
    """Σ gradient² and Σ |θ · gradient| of one parameter, `[2]`, float64."""
    squared = gradient.float().square().sum()
    product = torch.linalg.vecdot(gradient.flatten().float().abs(), parameter.detach().flatten().float().abs())
    return torch.stack([squared, product]).double()


def require_finite(loss: Tensor) -> None:
    """Raise `BadCalibration` where the loss is not finite."""
    if not torch.isfinite(loss):
        raise BadCalibration("the model's loss on the calibration data is not finite; check its weights and the data")
