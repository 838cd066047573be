"""The figures of a report as tables on the screen."""

from rich.console import Console
from rich.table import Table

from sglp_client.resources import Json


def show_figures(console: Console, title: str, report: Json) -> None:
    """The tables of a report or of a job's `result`, whatever its mode."""
    if report.get("table"):
        before_after = Table("", "before", "after", "", title=f"{title}, before and after")
        for row in report["table"]:
            before_after.add_row(row["metric"], _figure(row["before"]), _figure(row["after"]), row["unit"])
        console.print(before_after)
    if report.get("controls"):
        console.print(_controls(report["controls"]))
        if better := [row["name"] for row in report["controls"] if row["beats_plan"]]:
            console.print(f"[bold]On this model the plan loses to: {', '.join(better)}[/]")
    # Absent in a job's `result` and in reports of older versions.
    if gain := (report.get("healing") or {}).get("gain"):
        console.print(_gain(gain, report["healing"]["judged_windows"]), highlight=False, soft_wrap=True)
    if report.get("sweep"):
        console.print(_sweep(title, report["sweep"]))
        for each in report["sweep"]["unreachable"]:
            console.print(f"{each['requested']:.4g}: {each['reason']}", markup=False)
    if report.get("estimate"):
        estimate = report["estimate"]
        reachable = Table("of the", "at most", title=f"{title}: about {estimate['total_seconds']:,.0f} s")
        for kind, ratio in estimate["reachable"].items():
            reachable.add_row(kind, _figure(ratio["largest"]))
        console.print(reachable)


def _sweep(title: str, sweep: Json) -> Table:
    """The dense model, and what is left of it at each ratio."""
    columns = ("layers", "parameters", "perplexity", "agreement", "kl", "prefill_seconds")
    table = Table("removed", *columns[:-1], "prefill s", title=f"{title}, sweep over {sweep['of']}")
    for point in sweep["points"]:
        table.add_row(_figure(point["achieved"]), *(_figure(point[name]) for name in columns))
    return table


def _controls(rows: list[Json]) -> Table:
    """The plan beside its controls, as cut and, where the job repaired, after that."""
    table = Table("plan", title="against the controls, same number of layers", collapse_padding=True)
    repairs = any(row.get("repaired") for row in rows)
    metrics = ("perplexity", "agreement", "kl")
    for metric in metrics:
        table.add_column(metric)
        if repairs:
            table.add_column("repaired")
    for row in rows:
        stages = [row, row.get("repaired") or {}] if repairs else [row]
        table.add_row(row["name"], *(_figure(stage.get(metric)) for metric in metrics for stage in stages))
    return table


def _gain(gain: Json, samples: int) -> str:
    """What healing has gained, and whether that may be chance."""
    interval, chance = "no interval", ""
    if gain["low"] is not None:
        interval = f"95 %: {_figure(gain['low'])} to {_figure(gain['high'])}"
        chance = "; the interval includes 0, so it may be chance" if gain["low"] <= 0 else ""
    mean = _figure(gain["mean"]) or "infinitely many"
    return f"healing: gain of {mean} nats a position ({interval}) on {samples} held-out samples{chance}"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
