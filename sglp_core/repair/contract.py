"""What a repair is: a row of the table that says how new weights are fitted, and what its fit gives back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sglp_core.evaluation.quality import Quality
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.weight_changes import Changes
from sglp_core.loading.source_code import source_of
from sglp_core.repair.cut import Cut
from sglp_core.repair.residual_stream import CutStreams
from sglp_core.structure.runs import Run
from sglp_core.tasks import Batch


@dataclass(frozen=True)
class Candidate:
    """Weights of the layer before a cut that would repair it, by their names, and the factor `alpha` if there is one.

    `shrinkage` is how many times smaller the residual stream is meant to be after the cut than in the dense model; the
    walk then makes every later write smaller by as much.
    """

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

    def source(self) -> str:
        """The code that fits; kept repairs are used only while it is the same."""
        return f"{source_of(self.fit)}\0{self.scales}\0{self.uses_held_out}"


@dataclass(frozen=True)
class ModelRepair:
    """A row of `REPAIRS` that repairs all cuts at once. `auto` uses it alone wherever it is possible.

    `cannot(model)` is the reason why it is not possible for this model, or None. `repair(model, removed, fitted,
    judged)` fits on the first batches, judges on the others, and returns the new weights with how they did.
    """

    cannot: Callable[[LayeredModel], str | None]
    repair: Callable[[LayeredModel, Sequence[int], Sequence[Batch], Sequence[Batch]], "RepairedAtOnce"]

    def source(self) -> str:
        """The code that repairs; kept repairs are used only while it is the same."""
        return f"{source_of(self.cannot)}\0{source_of(self.repair)}"


@dataclass(frozen=True)
class Attempt:
    """One repair, or several on top of each other, tried at one cut.

    The errors are those of the residual stream after the cut, ‖pruned − dense‖² / ‖dense‖², mean over positions of
    windows not fitted on, without and with the repair; None where it was not `built`, for the `reason` given, and for a
    repair of all cuts at once. `alpha` is the factor that was folded.
    """

    cut: Run
    repair: str
    accepted: bool
    reason: str | None
    alpha: float | None = None
    error_before: float | None = None
    error_after: float | None = None
    built: bool = True

    def dropped(self, reason: str) -> "Attempt":
        """The attempt, not accepted after all."""
        return replace(self, accepted=False, reason=reason)


@dataclass(frozen=True)
class HeldOutQuality:
    """The quality on the same windows of the dense model, and of the pruned one before and after its repairs.

    `before` is None where it was not measured.
    """

    dense: Quality
    before: Quality | None
    after: Quality


# New weights, how they did, and the quality before and after.
RepairedAtOnce = tuple[Changes, Attempt, HeldOutQuality]
