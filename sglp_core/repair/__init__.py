"""Changing the weights that remain, without training, so that they make up for the removed layers: one file a repair,
and the table of them.

A repair of your own is a row: `REPAIRS["mine"] = CutRepair(fit)`. `auto` then tries it beside the others, and
`Method(repair="mine")` uses it alone.
"""

from sglp_core.options import REPAIR_TABLES
from sglp_core.repair.batch_norm import BATCH_NORM
from sglp_core.repair.compensate import COMPENSATE
from sglp_core.repair.contract import Attempt, Candidate, CutFit, CutRepair, ModelRepair
from sglp_core.repair.cut import Cut
from sglp_core.repair.least_squares import LEAST_SQUARES
from sglp_core.repair.refit import REFIT
from sglp_core.repair.residual_stream import CutStreams
from sglp_core.repair.writes.residual_writes import CannotFold

__all__ = ["REPAIRS", "Attempt", "Candidate", "CannotFold", "Cut", "CutFit", "CutRepair", "CutStreams", "ModelRepair"]

REPAIRS: dict[str, CutRepair | ModelRepair] = {
    "compensate": COMPENSATE,
    "least_squares": LEAST_SQUARES,
    "refit": REFIT,
    "batch_norm": BATCH_NORM,
}

REPAIR_TABLES.append(REPAIRS)
