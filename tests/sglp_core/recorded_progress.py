"""A phase whose reports are kept, or end the process."""

from collections.abc import Callable

from sglp_core.progress import Phase, Progress, SilentReporter


class Recorder(SilentReporter):
    """Keeps every report; `on_report` may raise, as if the process ended there."""

    def __init__(self, on_report: Callable[[Progress], None] = lambda _progress: None) -> None:
        self.reports: list[Progress] = []
        self._on_report = on_report

    def progress(self, progress: Progress) -> None:
        self.reports.append(progress)
        self._on_report(progress)

    @property
    def done(self) -> list[int]:
        return [progress.done for progress in self.reports]

    def phase(self) -> Phase:
        return Phase(self, "recorded")
