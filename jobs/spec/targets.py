"""What a job shall remove: a fraction, a number of layers, layers by name, or what a loss of quality allows."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from jobs.spec.part import Part

Ratio = Annotated[float, Field(gt=0, lt=1, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]
LayerNumbers = Annotated[tuple[Annotated[int, Field(strict=True)], ...], Field(min_length=1, max_length=1000)]


def _is_none(value: object) -> bool:
    return value is None


def _no_count(ratio: Any) -> Any:
    if isinstance(ratio, int | float) and not isinstance(ratio, bool) and ratio >= 1:
        raise ValueError("is a fraction of the layers, below 1; give `count` to remove a number of layers")
    return ratio


class RatioTargetSpec(Part):
    """How much to remove at least: `ratio` is the fraction of the model's parameters or FLOPs."""

    kind: Literal["parameters", "flops"]
    ratio: Ratio


class LayersTargetSpec(Part):
    """How many layers to remove, said in one of three ways: at least the fraction `ratio` of them, exactly `count`, or
    all but exactly `left`.
    """

    kind: Literal["layers"]
    ratio: Annotated[Ratio | None, BeforeValidator(_no_count), Field(exclude_if=_is_none)] = None
    count: Annotated[Count | None, Field(exclude_if=_is_none)] = None
    left: Annotated[Count | None, Field(exclude_if=_is_none)] = None

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if sum(each is not None for each in (self.ratio, self.count, self.left)) != 1:
            raise ValueError("give one of ratio, count and left")
        return self


class PlanTargetSpec(Part):
    """Just the layers to `remove`, or all but the layers to `keep`; negative numbers count from the end.

    Nothing is measured and chosen: the layers go, and the job repairs, verifies and reports. `plan.json` of a job is
    such a target, so one plan can be applied to many models. A model of another number of `layers` is refused.
    """

    kind: Literal["plan"]
    layers: Annotated[Annotated[int, Field(ge=2, strict=True)] | None, Field(exclude_if=_is_none)] = None
    remove: Annotated[LayerNumbers | None, Field(exclude_if=_is_none)] = None
    keep: Annotated[LayerNumbers | None, Field(exclude_if=_is_none)] = None

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if (self.remove is None) == (self.keep is None):
            raise ValueError("give one of remove and keep")
        return self

    @field_validator("remove", "keep")
    @classmethod
    def _fits_layers(cls, numbers: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        layers = info.data.get("layers")
        if numbers is None:
            return None
        if layers is not None:
            if outside := [number for number in numbers if not -layers <= number < layers]:
                raise ValueError(f"{outside[0]} is no layer of a model that has {layers}")
            numbers_from_0 = [number % layers for number in numbers]
            if len(set(numbers_from_0)) == layers:
                raise ValueError(f"names all {layers} layers of the model")
        else:
            numbers_from_0 = [*numbers]
        if twice := [number for number, times in Counter(numbers_from_0).items() if times > 1]:
            raise ValueError(f"names layer {twice[0]} more than once")
        return numbers

    def require_kept(self, protected: Sequence[int]) -> None:
        """Raise `ValueError` where it removes one of these layers whatever the number of layers."""
        if both := [number for number in protected if number in (self.remove or ())]:
            raise ValueError(f"target.remove and method.protected both name layer {both[0]}")


class QualityTargetSpec(Part):
    """Remove as many layers as lose no more than `max_drop` of a metric.

    Of `perplexity` that is the relative increase (0.1: at most 10 % more), of `accuracy` the difference in the share of
    positions that are right, of `agreement` the share of positions where the dense model's answer is no longer given.
    """

    kind: Literal["quality"]
    metric: Literal["perplexity", "accuracy", "agreement"]
    max_drop: Annotated[float, Field(ge=0, strict=True)]

    @field_validator("max_drop")
    @classmethod
    def _fits_metric(cls, max_drop: float, info: ValidationInfo) -> float:
        if info.data.get("metric") in {"accuracy", "agreement"} and max_drop >= 1:
            raise ValueError("is a difference of shares for this metric, and must be below 1")
        return max_drop


class SweepTargetSpec(Part):
    """For `mode: sweep`: look at several `ratios` to remove, in the unit `of`; no model is written."""

    kind: Literal["sweep"]
    of: Literal["parameters", "flops", "layers"] = "parameters"
    ratios: Annotated[tuple[Ratio, ...], Field(min_length=1, max_length=50)]


TargetSpec = Annotated[
    RatioTargetSpec | LayersTargetSpec | PlanTargetSpec | QualityTargetSpec | SweepTargetSpec,
    Field(discriminator="kind"),
]
