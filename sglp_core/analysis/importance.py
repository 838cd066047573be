"""What each layer is worth: GradNorm and the other criteria of the same pass, one small function each.

Every criterion takes the trace of the calibration pass and returns one score a layer, `[L]`; more is more important.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LayerTrace:
    """What one forward and backward pass left behind, float64 `[batches, L]` each.

    `skip_loss` is `[batches, L + 1, L + 1]`: at `[:, i, j]` what skipping the layers i to j − 1 together does to the
    loss, to first order: Σ over tokens of |⟨∂L/∂h_j, h_j − h_i⟩|, where h_i enters layer i. `skip_angle` has there the
    angle of h_i and h_j over π, mean over the samples that similarity is measured on.
    """

    squared_gradient: np.ndarray
    weight_gradient: np.ndarray
    skip_loss: np.ndarray
    skip_angle: np.ndarray
    cosine: np.ndarray
    angle: np.ndarray


def grad_norm(trace: LayerTrace) -> np.ndarray:
    """‖∂L/∂θ_l‖₂ of a layer's parameters, root mean square over batches (SGLP, arXiv 2410.14720).

    With one batch it is the plain norm. Only comparable inside a segment: it falls with depth in pre-norm networks.
    """
    norm: np.ndarray = np.sqrt(trace.squared_gradient.mean(0))
    return norm


def taylor(trace: LayerTrace) -> np.ndarray:
    """Σ |θ · ∂L/∂θ| over a layer's parameters (Molchanov et al. 2019), mean over batches."""
    score: np.ndarray = trace.weight_gradient.mean(0)
    return score


def first_order(trace: LayerTrace) -> np.ndarray:
    """Σ over tokens of |⟨∂L/∂h_out, h_out − h_in⟩|: the first-order loss change of skipping the layer."""
    score: np.ndarray = np.diagonal(trace.skip_loss.mean(0), 1).copy()
    return score


def block_influence(trace: LayerTrace) -> np.ndarray:
    """1 − cos(input, output), mean over tokens (ShortGPT, arXiv 2403.03853)."""
    score: np.ndarray = 1 - trace.cosine.mean(0)
    return score


def angular(trace: LayerTrace) -> np.ndarray:
    """arccos(cos(input, output)) / π, mean over tokens (Gromov et al., arXiv 2403.17887, for single layers)."""
    score: np.ndarray = trace.angle.mean(0)
    return score


CRITERIA: dict[str, Callable[[LayerTrace], np.ndarray]] = {
    "grad_norm": grad_norm,
    "block_influence": block_influence,
    "taylor": taylor,
    "first_order": first_order,
    "angular": angular,
}


def first_order_of_runs(trace: LayerTrace) -> np.ndarray:
    """`[L + 1, L + 1]`: at `[i, j]` the first-order loss change of skipping the layers i to j − 1 together.

    Less than the sum of its layers where one undoes what another did, which no score of single layers sees.
    """
    score: np.ndarray = trace.skip_loss.mean(0)
    return score


def angular_of_runs(trace: LayerTrace) -> np.ndarray:
    """`[L + 1, L + 1]`: at `[i, j]` the angle over π between what enters layer i and what layer j − 1 hands on.

    Gromov et al., arXiv 2403.17887, take the last token of every window; here it is the mean over all kinds of tokens.
    """
    score: np.ndarray = trace.skip_angle.mean(0)
    return score


RUN_CRITERIA: dict[str, Callable[[LayerTrace], np.ndarray]] = {
    "first_order": first_order_of_runs,
    "angular": angular_of_runs,
}


def last_layers(count: int) -> np.ndarray:
    """A control: the later a layer, the less it is worth."""
    return np.arange(count, 0, -1).astype(np.float64)


def shuffled(count: int, seed: int) -> np.ndarray:
    """A control: worth drawn at random."""
    return np.random.default_rng(seed).permutation(count).astype(np.float64)
