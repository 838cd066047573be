"""Before against after, step by step, and against the controls. Losses are stated as plainly as wins."""

from collections.abc import Mapping
from dataclasses import dataclass

from sglp_core.evaluation.footprint import Footprint
from sglp_core.evaluation.quality import Quality
from sglp_core.structure.runs import Removed

UNITS = {
    "perplexity": "",
    "accuracy": "share of positions",
    "agreement": "share of positions",
    "kl": "nats",
    "weight_bytes": "bytes",
    "prefill_seconds": "seconds",
    "decode_seconds": "seconds",
    "peak_memory_bytes": "bytes",
}

# The name of the plan beside its controls.
SGLP = "sglp"


@dataclass(frozen=True)
class BeforeAfterRow:
    """One figure of the dense model and of the compressed one."""

    metric: str
    """The name of the figure, such as `parameters` or `perplexity`."""
    before: int | float | None
    """Of the dense model; null where it is not finite."""
    after: int | float | None
    """Of the compressed model; null where it is not finite."""
    unit: str
    """The unit; empty for plain numbers."""


@dataclass(frozen=True)
class StageRow:
    """Quality on the held-out data after one step. A position is a token, or an image or text to classify; what it is
    for other heads, docs/method/heads.md says."""

    stage: str
    """`dense`, `pruned`, `repaired` or `healed`."""
    perplexity: float | None
    """exp of the mean nats a position; null where it is not finite."""
    accuracy: float | None
    """Share of positions whose most likely answer is the label."""
    agreement: float | None
    """Share of positions whose most likely answer is the dense model's."""
    kl: float | None
    """Mean KL(dense ‖ this) in nats a position; null where it is not finite."""


@dataclass(frozen=True)
class QualityFigures:
    """Quality on the held-out data."""

    perplexity: float | None
    """exp of the mean nats a position; null where it is not finite."""
    accuracy: float | None
    """Share of positions whose most likely answer is the label."""
    agreement: float | None
    """Share of positions whose most likely answer is the dense model's."""
    kl: float | None
    """Mean KL(dense ‖ this) in nats a position; null where it is not finite."""


@dataclass(frozen=True)
class ControlRow:
    """Quality on the held-out data of the plan (`sglp`) or of a control that removes as many layers: as cut, and after
    the same repair on the same calibration data.

    Healing is left out of this comparison, since controls are not healed.
    """

    name: str
    """`sglp`, or the criterion of the control."""
    perplexity: float | None
    """exp of the mean nats a position; null where it is not finite."""
    accuracy: float | None
    """Share of positions whose most likely answer is the label."""
    agreement: float | None
    """Share of positions whose most likely answer is the dense model's."""
    kl: float | None
    """Mean KL(dense ‖ this) in nats a position; null where it is not finite."""
    repaired: QualityFigures | None
    """The same after the repair; null where that changed nothing."""
    removed_layers: tuple[int, ...]
    """Numbers of the layers left out, from 0, rising."""
    beats_plan: bool
    """Whether its perplexity is lower than that of the plan, both after the repair."""


def before_after(
    stack_sizes: Mapping[str, tuple[int, int]], quality: tuple[Quality, Quality], cost: tuple[Footprint, Footprint]
) -> tuple[BeforeAfterRow, ...]:
    """Everything that is measured before and after; costs that were not measured are left out."""
    rows = [BeforeAfterRow(name, before, after, "") for name, (before, after) in stack_sizes.items()]
    for name in ("perplexity", "accuracy", "agreement", "kl"):
        before, after = (each.to_dict()[name] for each in quality)
        rows.append(BeforeAfterRow(name, before, after, UNITS[name]))
    for name in ("weight_bytes", "prefill_seconds", "decode_seconds", "peak_memory_bytes"):
        before, after = (getattr(each, name) for each in cost)
        if before is not None:
            rows.append(BeforeAfterRow(name, before, after, UNITS[name]))
    return tuple(rows)


def stage_rows(quality: Mapping[str, Quality]) -> tuple[StageRow, ...]:
    """Quality of the dense model and after each step that changed it, in order."""
    return tuple(StageRow(name, **each.to_dict()) for name, each in quality.items())


def control_rows(
    quality: Mapping[str, Mapping[str, Quality]], removed: Mapping[str, Removed]
) -> tuple[ControlRow, ...]:
    """The plan beside the controls at the same layer count; `quality` is that of each by the names of `StageRow`."""

    def after_repair(name: str) -> Quality:
        return quality[name].get("repaired", quality[name]["pruned"])

    return tuple(
        ControlRow(
            name,
            **quality[name]["pruned"].to_dict(),
            repaired=QualityFigures(**quality[name]["repaired"].to_dict()) if "repaired" in quality[name] else None,
            removed_layers=layers,
            beats_plan=after_repair(name).perplexity < after_repair(SGLP).perplexity,
        )
        for name, layers in removed.items()
    )
