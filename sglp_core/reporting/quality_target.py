"""A quality target: the largest removal found within it, what was tried, and what the held-out data says."""

from dataclasses import dataclass

from sglp_core.evaluation.quality import Quality
from sglp_core.options import Metric
from sglp_core.planning.quality_budget import QualitySearch
from sglp_core.reporting.json_form import finite


@dataclass(frozen=True)
class TriedRemoval:
    """One removal that the search judged."""

    layers_removed: int
    """The number of removed layers."""
    removed_layers: tuple[int, ...]
    """Their numbers, from 0, rising."""
    value: float | None
    """The metric of the pruned model; null where it is not finite."""
    drop: float | None
    """What is lost of the metric: for perplexity the relative increase, otherwise the difference; null where it is not
    finite."""


@dataclass(frozen=True)
class SearchResult:
    """The largest removal found within the target, judged on calibration samples that it was not chosen on."""

    samples: int
    """The number of samples that removals were judged on."""
    dense: float
    """The metric of the dense model on these samples."""
    layers_removed: int
    """The number of removed layers."""
    removed_layers: tuple[int, ...]
    """Their numbers, from 0, rising."""
    value: float | None
    """The metric of the pruned model; null where it is not finite."""
    drop: float | None
    """What is lost of the metric: for perplexity the relative increase, otherwise the difference; null where it is not
    finite."""


@dataclass(frozen=True)
class Verified:
    """The same removal on the held-out data; reported, and without influence on the search."""

    dense: float
    """The metric of the dense model."""
    value: float | None
    """The metric of the compressed model; null where it is not finite."""
    drop: float | None
    """What is lost of the metric; null where it is not finite."""
    within: bool
    """Whether that is within the target."""


@dataclass(frozen=True)
class QualityTargetSection:
    """The target and the search for the largest removal within it."""

    metric: Metric
    """The metric that may be lost."""
    max_drop: float
    """How much of it: for perplexity the relative increase, otherwise the difference of shares."""
    search: SearchResult
    """The largest removal found."""
    verified: Verified
    """The same on the held-out data."""
    tried: tuple[TriedRemoval, ...]
    """All removals that were judged, by their number of layers."""


def quality_target_section(search: QualitySearch, dense: Quality, pruned: Quality) -> QualityTargetSection:
    """`dense` and `pruned` are those of the held-out data."""
    target, best = search.target, search.best
    before, after = getattr(dense, target.metric), getattr(pruned, target.metric)
    drop = target.drop(before, after)
    return QualityTargetSection(
        metric=target.metric,
        max_drop=target.max_drop,
        search=SearchResult(
            samples=search.samples,
            dense=best.dense,
            layers_removed=len(best.removed_layers),
            removed_layers=best.removed_layers,
            value=finite(best.value),
            drop=finite(best.drop),
        ),
        verified=Verified(before, finite(after), finite(drop), drop <= target.max_drop),
        tried=tuple(
            TriedRemoval(len(trial.removed_layers), trial.removed_layers, finite(trial.value), finite(trial.drop))
            for trial in search.tried
        ),
    )
