"""The options that say what to remove; they become the `target` of a job specification, and its `method.protected`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sglp_client.resources import Json

RemoveCount = Annotated[int | None, typer.Option(min=1, help="Remove exactly so many layers.")]
Leave = Annotated[int | None, typer.Option(min=1, help="Remove all layers but exactly so many.")]
RemoveLayers = Annotated[
    str | None,
    typer.Option(help="Remove just these layers, such as 3,4,-2 (-1 is the last). Nothing is measured to choose them."),
]
KeepLayers = Annotated[str | None, typer.Option(help="Remove all layers but these; as --remove-layers.")]
PlanFile = Annotated[
    Path | None, typer.Option(help="Remove the layers that this plan.json of another job names; as --remove-layers.")
]
Protect = Annotated[
    str | None, typer.Option(help="Layers that must stay, such as 0,1,-1; if not given, the first and the last.")
]


# At most one of them says what to remove.
WAYS = ("remove", "remove_count", "leave", "remove_layers", "keep_layers", "plan", "max_drop", "sweep")


@dataclass(frozen=True, kw_only=True)
class Removal:
    """The options as they were given, None where one was not."""

    remove: float | None = None
    of: str | None = None
    remove_count: int | None = None
    leave: int | None = None
    remove_layers: str | None = None
    keep_layers: str | None = None
    plan: Path | None = None
    max_drop: float | None = None
    metric: str | None = None
    sweep: Sequence[float] | None = None

    def target(self) -> Json | None:
        """The target of a job; None where no option names one. Raises `typer.BadParameter`."""
        given = [f"--{name.replace('_', '-')}" for name in WAYS if getattr(self, name) not in (None, [])]
        if len(given) > 1:
            raise typer.BadParameter(f"give one of {' and '.join(given)}")
        if self.metric is not None and self.max_drop is None:
            raise typer.BadParameter("goes with --max-drop", param_hint="--metric")
        if self.of is not None and self.remove is None and not self.sweep:
            raise typer.BadParameter("goes with a fraction to remove", param_hint="--of")
        if self.sweep:
            return {"kind": "sweep", "of": self.of or "parameters", "ratios": [*self.sweep]}
        if self.remove is not None:
            return self._ratio(self.remove)
        if self.max_drop is not None:
            return {"kind": "quality", "metric": self.metric or "perplexity", "max_drop": self.max_drop}
        return self._layers() if self.plan is None else _read_plan(self.plan)

    def _ratio(self, remove: float) -> Json:
        if self.of == "layers" and remove >= 1:
            raise typer.BadParameter(
                f"is a fraction, below 1; to remove exactly {remove:g} layers: --remove-count {remove:g}",
                param_hint="--remove",
            )
        return {"kind": self.of or "parameters", "ratio": remove}

    def _layers(self) -> Json | None:
        for name, number in (("count", self.remove_count), ("left", self.leave)):
            if number is not None:
                return {"kind": "layers", name: number}
        for name, listed in (("remove", self.remove_layers), ("keep", self.keep_layers)):
            if listed is not None:
                return {"kind": "plan", name: layer_numbers(listed, f"--{name}-layers")}
        return None


def layer_numbers(text: str, option: str) -> list[int]:
    """The numbers in a list such as `3,4,-2`. Raises `typer.BadParameter`."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        message = f"{text!r} is no list of numbers of layers such as 0,1,-1"
        raise typer.BadParameter(message, param_hint=option) from None


def _read_plan(file: Path) -> Json:
    try:
        plan = json.loads(file.read_text())
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}", param_hint="--plan") from None
    except ValueError:
        plan = None
    if not _is_plan(plan):
        message = f'{file} is no plan.json of a job, such as {{"kind": "plan", "layers": 30, "remove": [3, 4]}}'
        raise typer.BadParameter(message, param_hint="--plan")
    return dict(plan)


def _is_plan(content: Any) -> bool:
    if not isinstance(content, dict) or content.get("kind") != "plan":
        return False
    lists = [content[name] for name in ("remove", "keep") if content.get(name) is not None]
    known = content.keys() <= {"kind", "layers", "remove", "keep"} and type(content.get("layers", 0)) is int
    return known and len(lists) == 1 and isinstance(lists[0], list) and all(type(each) is int for each in lists[0])
