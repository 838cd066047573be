"""The picture of the similarity matrix: a heat map with the borders of the segments and the removed layers marked."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sglp_core.structure.runs import Segment


def draw_similarity(
    similarity: np.ndarray, segments: Sequence[Segment], removed: Sequence[int], title: str, path: Path
) -> None:
    """Write a PNG of CKA `[L, L]`."""
    # Imported only here, because most processes draw nothing.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(similarity, cmap="viridis", vmin=min(0.0, float(similarity.min())), vmax=1)
    figure.colorbar(image, ax=axes, label="CKA", shrink=0.85)
    for segment in segments:
        # A layer is a square of side 1 around its index.
        low, high = segment.start - 0.5, segment.stop - 0.5
        axes.plot([low, high, high, low, low], [low, low, high, high, low], color="white", linewidth=1.8)
    if removed:
        axes.scatter(removed, removed, marker="x", color="#ff3b30", s=45, linewidths=1.8, label="removed layer")
        axes.legend(loc="upper right")
    axes.set(xlabel="layer", ylabel="layer", title=title)
    axes.set_xlim(-0.5, len(similarity) - 0.5)
    axes.set_ylim(len(similarity) - 0.5, -0.5)
    figure.savefig(path, dpi=120)
