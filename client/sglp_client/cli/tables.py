"""What has become of a job, on the screen: figures before and after, and the plan beside the controls."""

from typing import Any

from rich.console import Console
from rich.table import Table


def show_figures(console: Console, title: str, found: dict[str, Any]) -> None:
    """The tables of a report, or of a job's `result`, as far as they are there."""
    if found.get("table"):
        before_after = Table("", "before", "after", "", title=f"{title}, before and after")
        for row in found["table"]:
            before_after.add_row(row["metric"], _figure(row["before"]), _figure(row["after"]), row["unit"])
        console.print(before_after)
    if found.get("controls"):
        controls = Table("plan", "perplexity", "agreement", "kl", title="against the controls, same number of layers")
        for row in found["controls"]:
            controls.add_row(row["name"], *(_figure(row[metric]) for metric in ("perplexity", "agreement", "kl")))
        console.print(controls)
        if better := [row["name"] for row in found["controls"] if row["beats_plan"]]:
            console.print(f"[bold]On this model the plan loses to: {', '.join(better)}[/]")
    if found.get("estimate"):
        estimate = found["estimate"]
        told = Table("of the", "at most", title=f"{title}: about {estimate['total_seconds']:,.0f} s")
        for kind, each in estimate["reachable"].items():
            told.add_row(kind, _figure(each["largest"]))
        console.print(told)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
