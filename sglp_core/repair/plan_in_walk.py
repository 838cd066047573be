"""A plan on its way through a walk in which its cuts are repaired."""

from dataclasses import dataclass, field

from torch import Tensor

from sglp_core.execution.variants import States, Track
from sglp_core.repair.contract import Attempt
from sglp_core.structure.runs import Removed, Run


@dataclass(frozen=True)
class Request:
    """A plan to repair: its removed layers, and the numbers of the batches that judge and are not fitted on."""

    removed: Removed
    held_out: frozenset[int]


@dataclass(eq=False)
class PlanInWalk:
    """A request on its way: its track, the cuts that are still to come, and what happened at the others.

    `before` are the states that entered the layer before the next cut. `failed` is why the plan cannot be repaired
    after all, which shows when a later layer cannot take a factor.
    """

    request: Request
    track: Track
    cuts: list[Run]
    before: States | None = None
    shrinkage: float = 1.0
    attempts: list[Attempt] = field(default_factory=list)
    changes: dict[str, Tensor] = field(default_factory=dict)
    failed: str | None = None

    def fail(self, reason: str) -> None:
        """Drop all repairs of this plan."""
        self.failed, self.shrinkage, self.changes = reason, 1.0, {}
        self.attempts = [each.dropped(reason) if each.accepted else each for each in self.attempts]
        self.cuts.clear()
