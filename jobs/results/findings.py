"""What was found of the layers: their similarity, and the table of layers."""

from jobs.progress import Document


class LayerRow(Document):
    """A layer in the table of layers: its size, its segment, its score by every criterion, and the decision."""

    index: int
    name: str
    parameters: int
    flops: int
    segment: int
    importance: dict[str, float]
    removed: bool
    reason: str


class Similarity(Document):
    """The similarity of every two layers; null where it is not finite. `segments` are first and last layer of each.

    `loss_curve` is the loss of the segmentation by the number of segments.
    """

    layers: list[str]
    matrix: list[list[float | None]]
    segments: list[list[int]]
    loss_curve: list[float | None]
    estimator: str
    kernel: str
    n_samples: int
    sample_unit: str
