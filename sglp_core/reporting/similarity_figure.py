"""The picture of the similarity matrix: a heat map with the borders of the segments and the removed layers marked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure


def draw_similarity(
    similarity: np.ndarray, segments: Sequence[tuple[int, int]], removed: Sequence[int], title: str, path: Path
) -> None:
    """Write a PNG of CKA `[L, L]`; segments are inclusive (first, last) pairs."""
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(similarity, cmap="viridis", vmin=min(0.0, float(similarity.min())), vmax=1)
    figure.colorbar(image, ax=axes, label="CKA", shrink=0.85)
    for first, last in segments:
        corners = ([first - 0.5, last + 0.5, last + 0.5, first - 0.5, first - 0.5],)
        axes.plot(
            corners[0],
            [first - 0.5, first - 0.5, last + 0.5, last + 0.5, first - 0.5],
            color="white",
            linewidth=1.8,
        )
    if removed:
        axes.scatter(removed, removed, marker="x", color="#ff3b30", s=45, linewidths=1.8, label="removed layer")
        axes.legend(loc="upper right")
    axes.set(xlabel="layer", ylabel="layer", title=title)
    axes.set_xlim(-0.5, len(similarity) - 0.5)
    axes.set_ylim(len(similarity) - 0.5, -0.5)
    figure.savefig(path, dpi=120)
