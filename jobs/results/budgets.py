"""How a target of quality was searched for: what was tried, and how far each was from the budget."""

from typing import Literal

from jobs.progress import Document, Layers


class BudgetCheck(Document):
    """The metric of the dense and of the pruned model, and the loss between them; null where it is not finite."""

    dense: float
    value: float | None
    drop: float | None


class BudgetTrial(Document):
    """A plan that the search tried."""

    layers_removed: int
    removed_layers: Layers
    value: float | None
    drop: float | None


class BudgetSearch(BudgetCheck):
    """The plan that the search chose, judged on `samples` of the calibration data."""

    samples: int
    layers_removed: int
    removed_layers: Layers


class BudgetVerification(BudgetCheck):
    """The same plan on the held-out data; `within` says whether the loss is at most `max_drop` there too."""

    within: bool


class QualityBudget(Document):
    """How a target of kind `quality` was met."""

    metric: Literal["perplexity", "accuracy", "agreement"]
    max_drop: float
    search: BudgetSearch
    verified: BudgetVerification
    tried: list[BudgetTrial]
