"""What an operator lets a job ask for, checked when it is submitted."""

from collections.abc import Sequence

from jobs.settings import Settings
from jobs.spec import JobSpec


class UnknownGPUClass(Exception):
    """A job for workers of a class that the operator does not name; `known` are those it may name."""

    def __init__(self, asked: str, known: Sequence[str]) -> None:
        self.known = known
        super().__init__(f"there are no workers of the class {asked!r}; the classes are {', '.join(known)}")


def check_ceilings(spec: JobSpec, settings: Settings) -> None:
    """Raises `UnknownGPUClass`."""
    if spec.gpu_class not in settings.gpu_classes:
        raise UnknownGPUClass(spec.gpu_class, settings.gpu_classes)
