"""The result of a job, by its mode.

The worker stores what the method reports, and system tests compare the method's reports with these types
(`tests/described.py`). Rows of an older version may lack fields or have others, so rows are not checked when read.
"""

from collections.abc import Mapping

from pydantic import BaseModel, JsonValue
from typing_extensions import TypeAliasType

from jobs.progress import Document
from jobs.results.budgets import QualityBudget
from jobs.results.estimates import Estimate
from jobs.results.pushed import Pushed
from jobs.results.quality import Comparison, Control, EvaluationData, Verification
from jobs.results.sweeps import Sweep


class _Result(Document):
    output: Pushed | None = None


class CompressResult(_Result):
    """The result of a `compress` job: the model before and after, the controls, and the proof that it loads."""

    table: list[Comparison]
    controls: list[Control]
    verification: Verification
    evaluation: EvaluationData
    quality_target: QualityBudget | None = None


class SweepResult(_Result):
    """The result of a `sweep` job."""

    sweep: Sweep
    evaluation: EvaluationData


class EstimateResult(_Result):
    """The result of an `estimate` job."""

    estimate: Estimate


class AnalyzeResult(_Result):
    """The result of an `analyze` job: its findings are at the links `similarity`, `layers` and `report`."""


# Last the one that needs no field: a reader that tries one after the other takes the first that fits.
JobResult = TypeAliasType("JobResult", CompressResult | SweepResult | EstimateResult | AnalyzeResult)

RESULTS: Mapping[str, type[BaseModel]] = {
    "compress": CompressResult,
    "sweep": SweepResult,
    "estimate": EstimateResult,
    "analyze": AnalyzeResult,
}
"""By the mode of the job."""

SUMMARY = tuple(dict.fromkeys(name for result in RESULTS.values() for name in result.model_fields))


def summary_of(report: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The part of a report that is the job's result; the whole report is an artifact."""
    return {name: report[name] for name in SUMMARY if name in report}
