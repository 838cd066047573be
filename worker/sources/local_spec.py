"""The specification of a job whose uploads were copied to its folder."""

from jobs.spec import CalibrationSpec, EvaluationSpec, HealingSpec, JobSpec, ModelSource


class LocalModel(ModelSource):
    """As `ModelSource`, but `uri` may also be a path relative to the job's folder."""

    uri: str


class LocalCalibration(CalibrationSpec):
    """As `CalibrationSpec`, but `source` may also be a path relative to the job's folder."""

    source: str = "self"


class LocalEvaluation(EvaluationSpec):
    """As `EvaluationSpec`, but `source` may also be a path relative to the job's folder."""

    source: str = "held_out"


class LocalHealing(HealingSpec):
    """As `HealingSpec`, but `source` may also be a path relative to the job's folder."""

    source: str = "calibration"


class LocalSpec(JobSpec):
    """A job's specification in which the paths of their copies replace the URIs of uploads."""

    model: LocalModel
    calibration: LocalCalibration = LocalCalibration()
    evaluation: LocalEvaluation = LocalEvaluation()
    healing: LocalHealing = LocalHealing()
