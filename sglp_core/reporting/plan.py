"""The plan, and the proposals it was chosen from."""

from collections.abc import Sequence
from dataclasses import dataclass

from sglp_core.options import TargetKind
from sglp_core.planning.plan import Plan
from sglp_core.planning.proposals import Proposal
from sglp_core.reporting.json_form import finite


@dataclass(frozen=True)
class PlanSection:
    """Which layers were removed. Ratios are fractions of the whole model."""

    kind: TargetKind
    """What the ratios are fractions of."""
    exact: bool
    """Whether just `requested` was asked for, as a number of layers or layer by layer, and not at least that."""
    requested: float
    """The ratio to remove; for a quality target the one at which the search ended."""
    reachable: float
    """The largest ratio that any plan could remove."""
    achieved: float
    """The ratio removed."""
    removed_layers: tuple[int, ...]
    """Numbers of the removed layers, from 0, rising."""


@dataclass(frozen=True)
class ProposalRow:
    """A plan that one or several criteria proposed.

    Harm is KL(dense ‖ pruned) plus the rise of the loss on calibration data, in nats a position.
    """

    proposed_by: tuple[str, ...]
    """The criteria, each as `criterion/where`."""
    removed_layers: tuple[int, ...]
    """Numbers of the layers to remove, from 0, rising."""
    harm: float | None
    """Mean over the trials, before repair; null where it is not finite."""
    repaired_harm: float | None
    """The harm after repair, on windows that it was not fitted on; null where it was not tried with repair, or is not
    finite."""
    trials: int
    """The number of trials before repair."""


def plan_section(plan: Plan) -> PlanSection:
    target = plan.target
    return PlanSection(target.kind, target.exact, plan.requested, plan.reachable, plan.achieved, plan.removed_layers)


def proposal_rows(proposals: Sequence[Proposal]) -> tuple[ProposalRow, ...]:
    return tuple(
        ProposalRow(
            proposed_by=proposal.proposed_by,
            removed_layers=proposal.plan.removed_layers,
            harm=finite(proposal.harm),
            repaired_harm=finite(proposal.repaired_harm),
            trials=proposal.trials,
        )
        for proposal in proposals
    )
