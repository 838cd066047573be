"""The result told twice: `report.json` for programs, `report.md` for people. Losses are stated as plainly as wins."""

from collections.abc import Mapping
from typing import Any

from sglp_core.evaluation.footprint import Footprint
from sglp_core.evaluation.quality import Quality


def before_after(
    stack_sizes: Mapping[str, tuple[int, int]], quality: tuple[Quality, Quality], cost: tuple[Footprint, Footprint]
) -> list[dict[str, Any]]:
    """The table of everything that is measured before and after."""
    rows = [
        {"metric": name, "before": before, "after": after, "unit": ""} for name, (before, after) in stack_sizes.items()
    ]
    old, new = (each.to_dict() for each in quality)
    rows += [
        {"metric": name, "before": old[name], "after": new[name], "unit": unit}
        for name, unit in (
            ("perplexity", ""),
            ("accuracy", "share of positions"),
            ("agreement", "share of positions"),
            ("kl", "nats"),
        )
    ]
    for metric, unit in (
        ("weight_bytes", "bytes"),
        ("prefill_seconds", "seconds"),
        ("decode_seconds", "seconds"),
        ("peak_memory_bytes", "bytes"),
    ):
        before, after = getattr(cost[0], metric), getattr(cost[1], metric)
        if before is not None:
            rows.append({"metric": metric, "before": before, "after": after, "unit": unit})
    return rows


def controls(quality: Mapping[str, Quality], removed: Mapping[str, tuple[int, ...]]) -> list[dict[str, Any]]:
    """The plan beside the controls at the same layer count; `beats_plan` says where a control has less perplexity."""
    plan = quality["sglp"]
    return [
        {
            "name": name,
            **quality[name].to_dict(),
            "removed_layers": list(layers),
            "beats_plan": quality[name].perplexity < plan.perplexity,
        }
        for name, layers in removed.items()
    ]


def stages(quality: Mapping[str, Quality]) -> list[dict[str, Any]]:
    """Quality of the dense model and after each step that changed it, in order."""
    return [{"stage": name, **each.to_dict()} for name, each in quality.items()]


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report as a page: what was asked, what was done, before and after, controls, proof."""
    lines = [f"# {report['model']['origin']}", ""]
    plan = report.get("plan")
    if plan:
        # Of a quality target the requested ratio is only what the search ended with.
        asked = "" if "quality_target" in report else f"Asked to remove {plan['requested']:.4g}. "
        lines += [
            f"{asked}Removed {plan['achieved']:.4g} of the {plan['kind']} "
            f"(largest reachable {plan['reachable']:.4g}): layers {', '.join(map(str, plan['removed_layers']))}.",
            "",
            "| | before | after |",
            "|---|---:|---:|",
            *(f"| {r['metric']} | {cell(r['before'])} | {cell(r['after'])} |" for r in report["table"]),
            "",
        ]
    if report.get("proposals"):
        lines += [
            "Proposed plans, best first; harm is KL(dense ‖ pruned) plus the rise of the loss on calibration data, "
            "after repair on a part of it that no repair was fitted on:",
            "",
            "| proposed by | removed layers | harm | trials | harm after repair |",
            "|---|---|---:|---:|---:|",
            *(
                f"| {', '.join(p['proposed_by'])} | {', '.join(map(str, p['removed_layers']))} | {cell(p['harm'])} "
                f"| {p['trials']} | {'' if p['repaired_harm'] is None else cell(p['repaired_harm'])} |"
                for p in report["proposals"]
            ),
            "",
        ]
    if report.get("repair", {}).get("attempts"):
        lines += _repair(report["repair"])
    if report.get("healing", {}).get("curve"):
        lines += _healing(report["healing"])
    if len(report.get("stages", ())) > 2:
        lines += [
            "On the held-out data, step by step:",
            "",
            "| | perplexity | agreement | KL |",
            "|---|---:|---:|---:|",
            *(
                f"| {s['stage']} | {cell(s['perplexity'])} | {cell(s['agreement'])} | {cell(s['kl'])} |"
                for s in report["stages"]
            ),
            "",
        ]
    if report.get("controls"):
        lines += [
            f"Held-out data: {report['evaluation']['description']}. At the same layer count:",
            "",
            "| plan | removed layers | perplexity | accuracy | agreement | KL |",
            "|---|---|---:|---:|---:|---:|",
            *(
                f"| {c['name']} | {', '.join(map(str, c['removed_layers']))} | {cell(c['perplexity'])} "
                f"| {cell(c['accuracy'])} | {cell(c['agreement'])} | {cell(c['kl'])} |"
                for c in report["controls"]
            ),
            "",
        ]
        better = [c["name"] for c in report["controls"] if c["beats_plan"]]
        lines += [
            f"**On this model the plan loses to: {', '.join(better)}.**" if better else "No control does better.",
            "",
        ]
    if report.get("verification"):
        proof = report["verification"]
        lines += [
            "Verified in a fresh process with the stock class: no missing or unexpected tensor, logits within "
            f"{proof['reload_difference']:.1e} of the model in memory and {proof['bypass_difference']:.1e} of the "
            f"dense model with the layers bypassed (allowed {proof['tolerance']:.0e})"
            + (", decoding with the cache equal to decoding without." if proof["cached_decoding_equal"] else "."),
            "",
        ]
    analysis = report["analysis"]
    lines += [
        f"Similarity: CKA ({analysis['estimator']}, {analysis['kernel']}) over {analysis['n_samples']} "
        f"{analysis['sample_unit']}s; segments: "
        + ", ".join(f"{first}–{last}" for first, last in analysis["segments"])
        + ". See `similarity.png`.",
        "",
    ]
    return "\n".join(lines)


def _repair(repair: Mapping[str, Any]) -> list[str]:
    return [
        f"Repairs, fitted on {repair['fitted_windows']} calibration windows and judged on {repair['judged_windows']} "
        f"others; {len(repair['changed_tensors'])} tensors changed:",
        "",
        "| removed run | repair | loss | KL | |",
        "|---|---|---:|---:|---|",
        *(
            f"| {a['cut'][0]}–{a['cut'][1]} | {a['kind']} | {cell(a['loss_before'])} → {cell(a['loss_after'])} "
            f"| {cell(a['kl_before'])} → {cell(a['kl_after'])} | {'accepted' if a['accepted'] else a['reason']} |"
            if a["built"]
            else f"| {a['cut'][0]}–{a['cut'][1]} | {a['kind']} | | | {a['reason']} |"
            for a in repair["attempts"]
        ),
        "",
    ]


def _healing(healing: Mapping[str, Any]) -> list[str]:
    return [
        f"Healing ({healing['trained']}, {healing['loss']}) trained {len(healing['trained_tensors'])} tensors on "
        f"{healing['trained_windows']} calibration windows, judged on {healing['judged_windows']} others; "
        + (f"resumed from step {healing['resumed_from_step']}; " if healing["resumed_from_step"] else "")
        + (
            f"kept step {healing['kept_step']}:"
            if healing["kept_step"]
            else "**nothing got better, so nothing is kept**:"
        ),
        "",
        "| step | loss | KL |",
        "|---:|---:|---:|",
        *(f"| {p['step']} | {cell(p['loss'])} | {cell(p['kl'])} |" for p in healing["curve"]),
        "",
    ]


def cell(value: float | None) -> str:
    """One figure as people read it."""
    if value is None:
        return "not finite"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
