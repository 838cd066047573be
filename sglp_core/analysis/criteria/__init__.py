"""How important layers are: one file a criterion, and the table of them.

A criterion of your own is a row: `CRITERIA["mine"] = Criterion(scores)`. It then proposes plans beside the others, is
listed in reports, and is chosen alone with `Method(importance="mine")`.
"""

from sglp_core.analysis.criteria import angular, block_influence, first_order, grad_norm, taylor
from sglp_core.analysis.criteria.controls import CONTROLS, Control
from sglp_core.analysis.criteria.criterion import Criterion, LayerTrace
from sglp_core.options import IMPORTANCE_TABLES

__all__ = ["CONTROLS", "CRITERIA", "Control", "Criterion", "LayerTrace"]

CRITERIA: dict[str, Criterion] = {
    "grad_norm": grad_norm.CRITERION,
    "block_influence": block_influence.CRITERION,
    "taylor": taylor.CRITERION,
    "first_order": first_order.CRITERION,
    "angular": angular.CRITERION,
}

IMPORTANCE_TABLES.extend([CRITERIA, CONTROLS])
