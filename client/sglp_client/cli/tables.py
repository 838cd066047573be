"""The figures of a report as tables on the screen."""

from rich.console import Console
from rich.table import Table

from sglp_client.resources import Json


def show_figures(console: Console, title: str, report: Json) -> None:
    """The tables of a report or of a job's `result`: before and after, the plan beside its controls, the estimate."""
    if report.get("table"):
        before_after = Table("", "before", "after", "", title=f"{title}, before and after")
        for row in report["table"]:
            before_after.add_row(row["metric"], _figure(row["before"]), _figure(row["after"]), row["unit"])
        console.print(before_after)
    if report.get("controls"):
        controls = Table("plan", "perplexity", "agreement", "kl", title="against the controls, same number of layers")
        for row in report["controls"]:
            controls.add_row(row["name"], *(_figure(row[metric]) for metric in ("perplexity", "agreement", "kl")))
        console.print(controls)
        if better := [row["name"] for row in report["controls"] if row["beats_plan"]]:
            console.print(f"[bold]On this model the plan loses to: {', '.join(better)}[/]")
    if report.get("estimate"):
        estimate = report["estimate"]
        reachable = Table("of the", "at most", title=f"{title}: about {estimate['total_seconds']:,.0f} s")
        for kind, ratio in estimate["reachable"].items():
            reachable.add_row(kind, _figure(ratio["largest"]))
        console.print(reachable)


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
