"""What the options of `sglp compress` and `estimate` ask to remove, in the types of the method."""

from sglp_client.cli.removal import Removal, layer_numbers

from sglp_core import LayersTarget, PlanTarget, QualityTarget, Target
from sglp_core.options import RemovalTarget, SizedTarget


def removal_target(removal: Removal) -> RemovalTarget | None:
    """The target that the options name, None where none does. Raises `typer.BadParameter` for options that do not go
    together, and `ValueError` for numbers out of range."""
    if removal.max_drop is None:
        return sized_target(removal)
    asked = removal.target() or {}
    return QualityTarget(asked["metric"], asked["max_drop"])


def sized_target(removal: Removal) -> SizedTarget | None:
    """The same for options without a quality."""
    asked = removal.target() or {}
    match asked:
        case {"kind": "plan"}:
            remove, keep = (tuple(asked[name]) if asked.get(name) else None for name in ("remove", "keep"))
            return PlanTarget(remove, keep, asked.get("layers"))
        case {"kind": "layers", "count": count}:
            return LayersTarget(count=count)
        case {"kind": "layers", "left": left}:
            return LayersTarget(left=left)
        case {"kind": kind, "ratio": ratio}:
            return Target(kind, ratio)
    return None


def protected_layers(protect: str | None) -> tuple[int, ...] | None:
    """The layers of `--protect`. Raises `typer.BadParameter`."""
    return None if protect is None else tuple(layer_numbers(protect, "--protect"))
