"""The quality of a model, what it was measured on, and the proof that the written model loads."""

from jobs.progress import Document, Layers, Ratio


class Comparison(Document):
    """One metric of the model before and after; null where it is not finite."""

    metric: str
    before: int | float | None
    after: int | float | None
    unit: str


class Quality(Document):
    """Quality on held-out data; null where a figure is not finite.

    `perplexity` is exp of the mean loss, `accuracy` the share of correct positions, `agreement` the share of positions
    with the answer of the dense model, `kl` the mean KL(dense ‖ pruned) in nats.
    """

    perplexity: float | None
    accuracy: Ratio | None
    agreement: Ratio | None
    kl: float | None


class Control(Quality):
    """The plan (`sglp`) or a control that removes as many layers: as cut, and after the same repair.

    `repaired` is null where the repair changed nothing. `beats_plan` says whether the perplexity after the repair is
    lower than the plan's. Controls are not healed, so healing is left out here.
    """

    name: str
    repaired: Quality | None
    removed_layers: Layers
    beats_plan: bool


class Verification(Document):
    """The written model against the planned one, in a fresh process; the differences are relative to the largest logit.

    `cached_decoding_equal` is null for models that do not generate; `other_layers` are layers whose configuration
    changed.
    """

    passed: bool
    missing: list[str]
    unexpected: list[str]
    reload_difference: float
    bypass_difference: float
    tolerance: float
    cached_decoding_equal: bool | None
    other_layers: Layers


class EvaluationData(Document):
    """The held-out data that quality was measured on."""

    source: str
    samples: int
    controls: bool
    description: str
    digest: str
