import numpy as np
import pytest
import torch

from sglp_core.analysis.similarity import SimilarityAccumulator, cka_matrix
from sglp_core.errors import BadCalibration


def unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2007, eq. 5, term by term in float64."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    return (
        np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 * (one @ k @ m @ one) / (n - 2)
    ) / (n * (n - 3))


def related_features(layers: int, samples: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 24, generator=generator)
    features = []
    for _ in range(layers):
        x = x + 0.5 * torch.randn(samples, 24, generator=generator)
        features.append(x.clone())
    return features


def test_cka_equals_the_direct_formula_over_several_batches() -> None:
    batches = [related_features(5, n, seed) for seed, n in enumerate((40, 33, 64))]
    accumulator = SimilarityAccumulator()
    for batch in batches:
        accumulator.add(batch)
    hsic = np.zeros((5, 5))
    for batch in batches:
        grams = [x.double().numpy() @ x.double().numpy().T for x in batch]
        hsic += [[unbiased_hsic(a, b) for b in grams] for a in grams]
    expected = hsic / np.sqrt(np.outer(np.diag(hsic), np.diag(hsic)))
    np.testing.assert_allclose(accumulator.matrix(), expected, atol=1e-4)
    assert accumulator.n_samples == 137


def test_independent_features_are_not_similar_unless_the_estimator_is_biased() -> None:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(128, 4096, generator=generator) for _ in range(2)]
    assert abs(cka_matrix(features)[0, 1]) < 0.1
    assert cka_matrix(features, estimator="biased")[0, 1] > 0.9


def test_a_constant_layer_is_refused() -> None:
    with pytest.raises(BadCalibration, match=r"\[1\] do not vary"):
        cka_matrix([torch.randn(10, 3), torch.ones(10, 3)])


def test_three_samples_are_too_few() -> None:
    with pytest.raises(BadCalibration, match="at least 4"):
        cka_matrix([torch.randn(3, 3), torch.randn(3, 3)])
