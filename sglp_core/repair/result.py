"""What was built to make up for removed layers, and how it went."""

from dataclasses import dataclass

from sglp_core.removal.weight_changes import Changes
from sglp_core.structure.runs import Run


@dataclass(frozen=True)
class Attempt:
    """One repair tried at one cut.

    Loss (nats a position) and KL from the dense model are means over windows not fitted on, without and with the
    repair; None where it could not be built, for the `reason` given. `alpha` is the factor that was folded.
    """

    cut: Run
    kind: str
    accepted: bool
    reason: str | None
    alpha: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    kl_before: float | None = None
    kl_after: float | None = None


@dataclass(frozen=True)
class Built:
    """The weights that make a repair, the factor it folds, and by how much that makes the later stream smaller."""

    changes: Changes
    alpha: float | None = None
    shrinks: float = 1.0
