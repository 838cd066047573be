"""What every step of planning needs besides its own input."""

from dataclasses import dataclass, field

from sglp_core.progress import Phase, silent_phase
from sglp_core.step_journal import StepJournal


@dataclass(frozen=True)
class PlanningRun:
    """Where steps report their progress, and the journal that has the results of those that were done before."""

    progress: Phase = field(default_factory=silent_phase)
    journal: StepJournal = field(default_factory=StepJournal)
