"""How a job compares, groups and scores layers."""

from dataclasses import dataclass
from typing import Literal, get_args

from sglp_core.analysis.importance import CONTROL_CRITERIA, CRITERIA
from sglp_core.analysis.segmentation import Feature
from sglp_core.analysis.similarity import Estimator, Kernel
from sglp_core.repair.repair import Repair

# Not a criterion: all criteria propose a plan, and the model says which proposal harms it least.
PROPOSALS = "proposals"


@dataclass(frozen=True)
class Method:
    """`importance` is a criterion, a control, or `proposals`; `protected` None keeps the first and the last layer.

    `repair` says how the loss of the removed layers is made up for in weights that stay, if that helps.
    """

    segments: int | Literal["auto"] = "auto"
    feature: Feature = "rows"
    importance: str = PROPOSALS
    estimator: Estimator = "unbiased"
    kernel: Kernel = "linear"
    protected: tuple[int, ...] | None = None
    repair: Repair = "auto"

    def __post_init__(self) -> None:
        known = (PROPOSALS, *CRITERIA, *CONTROL_CRITERIA)
        if self.importance not in known:
            raise ValueError(f"importance must be one of {', '.join(known)}, not {self.importance!r}")
        if self.repair not in get_args(Repair):
            raise ValueError(f"repair must be one of {', '.join(get_args(Repair))}, not {self.repair!r}")

    def protected_in(self, count: int) -> set[int]:
        return {0, count - 1} if self.protected is None else {i % count for i in self.protected}
