"""CKA between layers: one matrix from a stream of batches.

Each batch gives one Gram matrix per layer. The unbiased HSIC₁ (Song et al. 2007) of two Grams is the inner product
of their U-centred forms (Székely & Rizzo 2014, eq. 3.1), so stacking the U-centred Grams of a batch as an L × n²
matrix G makes `G @ G.T` the whole HSIC matrix in one product. Terms are summed over batches and divided once at the
end (Nguyen, Raghu & Kornblith 2021).
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sglp_core.errors import BadCalibration
from sglp_core.options import Estimator, Kernel


def gram(features: Tensor, kernel: Kernel = "linear") -> Tensor:
    """The n × n Gram matrix of features `[n, d]`, in float32; `rbf` takes the median distance as its width."""
    x = features.float()
    if kernel == "linear":
        return x @ x.T
    squared = torch.cdist(x, x).square()
    n = squared.shape[0]
    median = squared.flatten().sort().values[n + (n * n - n) // 2].clamp_min(torch.finfo(torch.float32).tiny)
    return torch.exp(-squared / (2 * median))


def centre(gram_matrix: Tensor, estimator: Estimator = "unbiased") -> Tensor:
    """Centre a Gram `[n, n]` so that the inner product of two results is HSIC up to a factor of n alone."""
    k = gram_matrix
    n = k.shape[0]
    if estimator == "biased":
        return k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean()
    k = k - torch.diag_embed(torch.diagonal(k))
    rows = k.sum(1)
    centred = k - rows[:, None] / (n - 2) - rows[None, :] / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    return centred - torch.diag_embed(torch.diagonal(centred))


def cka_matrix(features: list[Tensor], estimator: Estimator = "unbiased", kernel: Kernel = "linear") -> np.ndarray:
    """CKA `[L, L]` of L feature matrices `[n, d_l]` over the same n samples."""
    accumulator = SimilarityAccumulator(estimator=estimator, kernel=kernel)
    accumulator.add(features)
    return accumulator.matrix()


@dataclass
class SimilarityAccumulator:
    """Sums HSIC over batches; `matrix()` turns the sums into CKA."""

    estimator: Estimator = "unbiased"
    kernel: Kernel = "linear"
    n_samples: int = 0
    _hsic: Tensor | None = field(default=None, repr=False)

    def add(self, features: list[Tensor]) -> None:
        """Add one batch: L matrices `[n, d_l]` whose rows are the same n samples; n must be at least 4."""
        n = features[0].shape[0]
        if n < 4:
            raise BadCalibration(f"CKA needs at least 4 samples in a batch, this one has {n}; use longer or more texts")
        # The mean row changes no centred Gram, but leaving it in would cost float32 digits.
        grams = [centre(gram(x.float() - x.float().mean(0), self.kernel), self.estimator).flatten() for x in features]
        stacked = torch.stack(grams)
        scale = n * (n - 3) if self.estimator == "unbiased" else (n - 1) ** 2
        # On the device: only `matrix` waits for it.
        hsic = (stacked @ stacked.T).double() / scale
        self._hsic = hsic if self._hsic is None else self._hsic + hsic
        self.n_samples += n

    def matrix(self) -> np.ndarray:
        """CKA, float64 `[L, L]`; raises `BadCalibration` where a layer's output does not vary over the samples."""
        if self._hsic is None:
            raise BadCalibration("no calibration batch was measured")
        hsic = self._hsic.cpu().numpy()
        own = np.diag(hsic)
        bad = [int(i) for i in np.flatnonzero(~(own > 0))]
        if bad:
            raise BadCalibration(
                f"the outputs of layers {bad} do not vary over the {self.n_samples} calibration samples "
                "(or are not finite), so their similarity is undefined; use more varied calibration data"
            )
        cka: np.ndarray = hsic / np.sqrt(np.outer(own, own))
        return cka
