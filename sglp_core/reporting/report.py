"""The reports of all modes as types: `report.json` is one of these, and `report.schema.json` describes it.

A field is called in JSON as it is here, or by its `alias`. The order of the fields is that of the file.
"""

from dataclasses import dataclass, field

from sglp_core.options import Method
from sglp_core.reporting.comparison import BeforeAfterRow, ControlRow, StageRow
from sglp_core.reporting.estimate import EstimateSection, OutlinedModelSection
from sglp_core.reporting.inputs import (
    AnalysisSection,
    CalibrationSection,
    EvaluationSection,
    FilesSection,
    ModelSection,
    PlacementSection,
)
from sglp_core.reporting.json_form import LEFT_OUT_IF_NONE, Json, to_json_object
from sglp_core.reporting.plan import PlanSection, ProposalRow
from sglp_core.reporting.quality_target import QualityTargetSection
from sglp_core.reporting.sweep import SweepSection
from sglp_core.reporting.verification import VerificationSection
from sglp_core.reporting.weight_changes import HealingSection, RepairSection


class Report:
    """What the reports of all modes have in common."""

    def to_dict(self) -> dict[str, Json]:
        """The report as `report.json` has it."""
        return to_json_object(self)


@dataclass(frozen=True)
class AnalyzeReport(Report):
    """The report of a job that measures a model and removes nothing."""

    model: ModelSection
    """The model that was read."""
    method: Method
    """The options of the method."""
    calibration: CalibrationSection
    """The calibration data."""
    analysis: AnalysisSection
    """Similarity of the layers, and the segments found in it."""
    placement: PlacementSection
    """Where the weights lay, and the memory that the job took."""


@dataclass(frozen=True, kw_only=True)
class CompressReport(Report):
    """The report of a job that removes layers and writes the smaller model."""

    model: ModelSection
    """The model that was read."""
    method: Method
    """The options of the method."""
    calibration: CalibrationSection
    """The calibration data."""
    analysis: AnalysisSection | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """Similarity of the layers, and the segments found in it; left out where the plan was given."""
    placement: PlacementSection
    """Where the weights lay, and the memory that the job took."""
    plan: PlanSection
    """Which layers were removed."""
    proposals: tuple[ProposalRow, ...]
    """The plans that were proposed, best first; empty where one criterion chose, or the plan was given."""
    table: tuple[BeforeAfterRow, ...]
    """Everything measured before and after."""
    stages: tuple[StageRow, ...]
    """Quality of the dense model and after each step that changed it, in order."""
    repair: RepairSection
    """The repairs tried at every cut."""
    healing: HealingSection
    """The training after the cut."""
    controls: tuple[ControlRow, ...]
    """The plan beside the controls that remove as many layers, as cut and after the same repair."""
    evaluation: EvaluationSection
    """The held-out data."""
    verification: VerificationSection
    """The proof that the written model loads and is the planned one."""
    files: FilesSection
    """What became of the files of the original."""
    layer_map: dict[str, int]
    """For the number of every layer that stays, its number in the smaller model."""
    quality_target: QualityTargetSection | None = field(default=None, metadata=LEFT_OUT_IF_NONE)
    """The search for the largest removal within a quality target; left out for other targets."""


@dataclass(frozen=True)
class SweepReport(Report):
    """The report of a job that judges several ratios from one analysis and writes no model."""

    model: ModelSection
    """The model that was read."""
    method: Method
    """The options of the method."""
    calibration: CalibrationSection
    """The calibration data."""
    analysis: AnalysisSection
    """Similarity of the layers, and the segments found in it."""
    placement: PlacementSection
    """Where the weights lay, and the memory that the job took."""
    sweep: SweepSection
    """Every ratio with its quality and time."""
    evaluation: EvaluationSection
    """The held-out data."""


@dataclass(frozen=True)
class EstimateReport(Report):
    """The report of a job that reads no weights and says what another job would take."""

    model: OutlinedModelSection
    """The model, known by its configuration and tensor headers alone."""
    estimate: EstimateSection
    """What a job would take and could reach."""
