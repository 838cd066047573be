"""A quality target for the report: what the search found and tried, and what the held-out data says of it."""

import math
from collections.abc import Mapping
from typing import Any

from sglp_core.evaluation.quality import Quality
from sglp_core.planning.quality_budget import Search
from sglp_core.reporting.report import cell


def summary(found: Search, dense: Quality, pruned: Quality) -> dict[str, Any]:
    """The search for the report, and what the held-out data says of its plan."""
    target = found.target
    before, after = getattr(dense, target.metric), getattr(pruned, target.metric)
    drop = target.drop(before, after)
    return {
        "metric": target.metric,
        "max_drop": target.max_drop,
        "search": {"samples": found.samples, "dense": found.found.dense, **found.found.to_dict()},
        "verified": {
            "dense": before,
            "value": after if math.isfinite(after) else None,
            "drop": drop if math.isfinite(drop) else None,
            "within": drop <= target.max_drop,
        },
        "tried": [trial.to_dict() for trial in found.tried],
    }


def to_markdown(content: Mapping[str, Any]) -> str:
    """A `summary` as people read it."""
    found, verified = content["search"], content["verified"]
    what = "more perplexity, relative to the dense model" if content["metric"] == "perplexity" else content["metric"]
    lines = [
        "## Quality target",
        "",
        f"Asked to lose at most {content['max_drop']:.4g} ({what}); the largest removal found has "
        f"{found['layers_removed']} layers.",
        "",
        f"| {content['metric']} | dense | pruned | lost |",
        "|---|---:|---:|---:|",
        f"| search ({found['samples']} calibration samples) | {_cells(found)} |",
        f"| verified (held-out data) | {_cells(verified)} |",
        "",
    ]
    if not verified["within"]:
        lines += ["**On the held-out data the plan loses more than was asked for.**", ""]
    lines += [
        "Tried: "
        + ", ".join(f"{t['layers_removed']} layers lose {cell(t['drop'])}" for t in content["tried"])
        + ". Quality is not exactly monotone: a larger removal inside the budget may exist that was not tried.",
        "",
    ]
    return "\n".join(lines)


def _cells(row: Mapping[str, Any]) -> str:
    return " | ".join(cell(row[name]) for name in ("dense", "value", "drop"))
