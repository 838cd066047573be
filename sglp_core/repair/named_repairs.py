"""Which repairs a name stands for: one row of the table, or with `auto` all rows and what can be combined of them."""

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.repair import REPAIRS
from sglp_core.repair.contract import CutRepair, ModelRepair

# Names of repairs, each built on top of those before it.
Combination = tuple[str, ...]


def cut_repairs() -> dict[str, CutRepair]:
    """The rows that are fitted cut by cut."""
    return {name: row for name, row in REPAIRS.items() if isinstance(row, CutRepair)}


def combinations(name: str) -> tuple[Combination, ...]:
    """What is tried: with `auto` each repair of a cut alone, and each on top of one that scales the stream."""
    if name == "none":
        return ()
    if name != "auto":
        return ((name,),)
    rows = cut_repairs()
    scaling = [each for each in rows if rows[each].scales]
    alone = [(each,) for each in rows]
    return (*alone, *((scale, each) for scale in scaling for each in rows if not rows[each].scales))


def combination_name(combination: Combination) -> str:
    """The name that reports give it, such as `compensate + refit`."""
    return " + ".join(combination)


def repair_at_once(model: LayeredModel, name: str) -> str | None:
    """The name of the repair that is done for all cuts of this model at once, or None."""
    if not model.weights.resident:
        return None
    for each in REPAIRS if name == "auto" else [name]:
        row = REPAIRS.get(each)
        if isinstance(row, ModelRepair) and row.cannot(model) is None:
            return each
    return None


def folds(model: LayeredModel, name: str) -> bool:
    """Whether this repair of this model goes cut by cut into weights that stay."""
    return name != "none" and repair_at_once(model, name) is None and reason_against(model, name) is None


def scales(name: str) -> bool:
    """Whether the repairs of this name may scale the stream after a cut."""
    rows = cut_repairs()
    return any(rows[row].scales for combination in combinations(name) for row in combination)


def reason_against(model: LayeredModel, name: str) -> str | None:
    """Why this repair is not possible for this model, or None."""
    row = REPAIRS.get(name)
    if isinstance(row, ModelRepair):
        return row.cannot(model)
    if not isinstance(model.path, str):
        return "layers that stand in stages do not write to one residual stream"
    if model.layerwise is None:
        return "its layers cannot be run one by one"
    return None
