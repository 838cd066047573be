"""`JobSpec`: what was asked for, the same object in HTTP, database and worker. Unknown fields are refused."""

from jobs.spec.job_spec import (
    EXAMPLES,
    GPU_CLASS,
    CalibrationSpec,
    EvaluationSpec,
    HealingSpec,
    Importance,
    JobSpec,
    MethodSpec,
    ModelSource,
    OutputSpec,
)
from jobs.spec.targets import (
    LayersTargetSpec,
    PlanTargetSpec,
    QualityTargetSpec,
    RatioTargetSpec,
    SweepTargetSpec,
    TargetSpec,
)

__all__ = [
    "EXAMPLES",
    "GPU_CLASS",
    "CalibrationSpec",
    "EvaluationSpec",
    "HealingSpec",
    "Importance",
    "JobSpec",
    "LayersTargetSpec",
    "MethodSpec",
    "ModelSource",
    "OutputSpec",
    "PlanTargetSpec",
    "QualityTargetSpec",
    "RatioTargetSpec",
    "SweepTargetSpec",
    "TargetSpec",
]
