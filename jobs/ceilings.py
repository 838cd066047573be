"""What an operator lets a job ask for, checked when it is submitted."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jobs.settings import Settings
from jobs.spec import JobSpec


class UnknownGPUClass(Exception):
    """A job for workers of a class that the operator does not name; `known` are those it may name."""

    def __init__(self, asked: str, known: Sequence[str]) -> None:
        self.known = known
        super().__init__(f"there are no workers of the class {asked!r}; the classes are {', '.join(known)}")


@dataclass(frozen=True)
class Excess:
    """A job asks at `pointer` for more of `what` than `setting` allows."""

    pointer: str
    what: str
    setting: str
    limit: float
    asked: float

    def __str__(self) -> str:
        return f"{self.asked:,} {self.what} are more than a job may ask for here: {self.limit:,} ({self.setting})"


class BeyondCeilings(Exception):
    """A job asks for more than the operator allows, in one or more ways."""

    def __init__(self, excesses: Sequence[Excess]) -> None:
        self.excesses = excesses
        super().__init__("; ".join(map(str, excesses)))


def check_ceilings(spec: JobSpec, settings: Settings) -> None:
    """Raises `UnknownGPUClass` and `BeyondCeilings`."""
    if spec.gpu_class not in settings.gpu_classes:
        raise UnknownGPUClass(spec.gpu_class, settings.gpu_classes)
    excesses = []
    for pointer, name, what, asked in _asked(spec):
        limit: float = getattr(settings, name)
        if asked > limit:
            excesses.append(Excess(pointer, what, f"SGLP_{name.upper()}", limit, asked))
    if excesses:
        raise BeyondCeilings(excesses)


def _asked(spec: JobSpec) -> Iterator[tuple[str, str, str, float]]:
    """Pointer, setting, unit and number of all that has a ceiling."""
    calibration, evaluation, healing = spec.calibration, spec.evaluation, spec.healing
    window = calibration.sequence_length
    yield "/calibration/samples", "job_max_samples", "samples", calibration.samples
    yield "/evaluation/samples", "job_max_samples", "samples", evaluation.samples
    yield "/calibration/samples", "job_max_tokens", "tokens", calibration.samples * window
    yield "/evaluation/samples", "job_max_tokens", "tokens", evaluation.samples * window
    yield "/calibration/batch_size", "job_max_batch_tokens", "tokens a batch", calibration.batch_size * window
    yield "/healing/batch_size", "job_max_batch_tokens", "tokens a batch", (healing.batch_size or 0) * window
    yield "/healing/steps", "job_max_healing_steps", "steps", healing.steps
    yield "/healing/epochs", "job_max_healing_epochs", "epochs", healing.epochs
    yield "/healing/max_seconds", "job_max_healing_seconds", "seconds", healing.max_seconds or 0
    yield "/deadline_seconds", "job_max_deadline_seconds", "seconds", spec.deadline_seconds
