"""A stored similarity matrix in the forms people and programs read."""

import csv
import io
import math

import numpy as np

from jobs.results import Similarity
from jobs.tables import Analysis


def similarity_matrix(analysis: Analysis) -> np.ndarray:
    """L × L, float32."""
    count = len(analysis.layer_names)
    return np.frombuffer(analysis.matrix, dtype="<f4").reshape(count, count)


def as_document(analysis: Analysis) -> Similarity:
    """Matrix, layer names, segments and how it was measured; a value that is not finite becomes null."""
    matrix: list[list[float]] = similarity_matrix(analysis).tolist()
    return Similarity(
        layers=analysis.layer_names,
        matrix=[[value if math.isfinite(value) else None for value in row] for row in matrix],
        segments=analysis.segments,
        loss_curve=analysis.loss_curve,
        estimator=analysis.estimator,
        kernel=analysis.kernel,
        n_samples=analysis.n_samples,
        sample_unit=analysis.sample_unit,
    )


def as_csv(analysis: Analysis) -> str:
    """A header of layer names, then a row a layer that starts with its name."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["", *analysis.layer_names])
    for name, row in zip(analysis.layer_names, similarity_matrix(analysis).tolist(), strict=True):
        writer.writerow([name, *row])
    return text.getvalue()


def as_npy(analysis: Analysis) -> bytes:
    """NumPy's own format."""
    data = io.BytesIO()
    np.save(data, similarity_matrix(analysis), allow_pickle=False)
    return data.getvalue()
