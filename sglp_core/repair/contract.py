"""What a repair is: a row of the table that says how new weights are fitted, and what its fit gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.weight_changes import Changes
from sglp_core.repair.cut import Cut
from sglp_core.repair.residual_stream import CutStreams
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch


@dataclass(frozen=True)
class Candidate:
    """Weights that would repair a cut, by their names, the factor `alpha` folded into them if there is one, and how
    many times smaller they make the residual stream after the cut than it is in the dense model."""

    changes: Changes
    alpha: float | None = None
    shrinkage: float = 1.0


class CutFit(Protocol):
    """What a repair measures at one cut, batch by batch, and the weights it makes of that."""

    def add(self, batch: Batch, streams: CutStreams, *, held_out: bool) -> None:
        """Take in one batch and its streams at the cut; `held_out` batches only settle how closely to fit."""

    def build(self, shrinkage: float) -> Candidate:
        """The new weights, for a stream that is to be `shrinkage` times smaller than `CutStreams.target`.

        The model holds the weights of earlier repairs meanwhile. Raises `CannotFold`, or `torch.linalg.LinAlgError`
        where there is nothing to fit.
        """


@dataclass(frozen=True)
class CutRepair:
    """A row of `REPAIRS` that is fitted at each cut by itself, in order, with the earlier cuts repaired.

    `fit` prepares the measurements, and raises `CannotFold` where the repair is not possible. `scales` says that the
    repair only changes the length of the stream, so `auto` also tries each other repair on top of it. `uses_held_out`
    says that the fit takes in held-out batches as well.
    """

    fit: Callable[[Cut], CutFit]
    scales: bool = False
    uses_held_out: bool = False


@dataclass(frozen=True)
class ModelRepair:
    """A row of `REPAIRS` that repairs all cuts at once. `auto` uses it alone wherever it is possible.

    `cannot(model)` is the reason why it is not possible for this model, or None. `repair(model, removed, fitted,
    judged)` fits on the first batches, judges on the others, and returns the new weights with how they did.
    """

    cannot: Callable[[LayeredModel], str | None]
    repair: Callable[[LayeredModel, Sequence[int], Sequence[Batch], Sequence[Batch]], tuple[Changes, "Attempt"]]


@dataclass(frozen=True)
class Attempt:
    """One repair, or several on top of each other, tried at one cut.

    Loss (nats a position) and KL from the dense model are means over windows not fitted on, without and with the
    repair; None where it could not be built, for the `reason` given. `alpha` is the factor that was folded.
    """

    cut: Run
    repair: str
    accepted: bool
    reason: str | None
    alpha: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    kl_before: float | None = None
    kl_after: float | None = None
