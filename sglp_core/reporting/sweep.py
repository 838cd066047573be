"""A sweep for the report: a table of every ratio, the reason for those out of reach, and the knee."""

from collections.abc import Mapping, Sequence
from typing import Any

from sglp_core.options import SweepTarget
from sglp_core.planning.sweep import Point, knee_of
from sglp_core.reporting.report import cell

COLUMNS = (
    "layers", "parameters", "flops", "perplexity", "accuracy", "agreement", "kl", "prefill_seconds", "decode_seconds",
)  # fmt: skip


def summary(target: SweepTarget, points: Sequence[Point], unreachable: Mapping[float, str]) -> dict[str, Any]:
    """The sweep for the report."""
    found = knee_of(points)
    return {
        "of": target.of,
        "points": [point.to_dict() for point in points],
        "unreachable": [{"requested": ratio, "reason": reason} for ratio, reason in unreachable.items()],
        "knee": None if found is None else {"requested": found.requested, "achieved": found.achieved},
    }


def to_markdown(content: Mapping[str, Any]) -> str:
    """A `summary` as people read it."""
    names = [name for name in COLUMNS if any(point[name] is not None for point in content["points"])]
    lines = [
        "## Sweep",
        "",
        f"Fractions of the {content['of']}. Quality is that on the held-out data with the layers bypassed; seconds are "
        "medians of five at batch 1, in the job's own process, with the layers really removed. See `sweep.png`.",
        "",
        f"| asked | removed | {' | '.join(names)} |",
        "|---:|---:|" + "---:|" * len(names),
        *(
            f"| {cell(point['requested'])} | {cell(point['achieved'])} "
            f"| {' | '.join(cell(point[name]) for name in names)} |"
            for point in content["points"]
        ),
        "",
        *(f"- {each['requested']:.4g}: {each['reason']}" for each in content["unreachable"]),
        *([""] if content["unreachable"] else []),
    ]
    if content["knee"]:
        lines += [
            f"**Knee at {content['knee']['achieved']:.4g} removed**: the point of ln perplexity against the fraction "
            "removed that lies furthest below the chord between the ends of the sweep, so it depends on where the "
            "sweep ends.",
        ]
    else:
        lines += ["No knee: no point lies below the chord between the ends of the sweep."]
    return "\n".join([*lines, ""])
