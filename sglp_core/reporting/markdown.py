"""Reports as Markdown."""

from collections.abc import Mapping
from typing import Any

from sglp_core.reporting.json_form import to_json_object
from sglp_core.reporting.quality_target import QualityTargetSection
from sglp_core.reporting.report import AnalyzeReport, CompressReport, EstimateReport, SweepReport
from sglp_core.reporting.sweep import SweepSection

COLUMNS = (
    "layers", "parameters", "flops", "perplexity", "accuracy", "agreement", "kl", "prefill_seconds", "decode_seconds",
)  # fmt: skip


def report_to_markdown(report: Mapping[str, Any]) -> str:
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


def sweep_to_markdown(content: Mapping[str, Any]) -> str:
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


def quality_to_markdown(content: Mapping[str, Any]) -> str:
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


def _asked(found: dict[str, Any]) -> list[str]:
    target = found.get("target")
    if target is None:
        return []
    most = found["reachable"][target["kind"]]["largest"]
    said = "can be reached" if target["reachable"] else f"**cannot be reached** (at most {most:.4f})"
    return [f"Asked for: {target['ratio']:.4g} of the {target['kind']}; that {said}.", ""]


def estimate_to_markdown(content: dict[str, Any]) -> str:
    """The estimate as a page."""
    found = content["estimate"]
    peak = found["peak_memory_bytes"]
    memory = "Peak memory not known" if peak is None else f"Peak memory about {peak / 1e6:,.0f} MB"
    lines = [
        f"# {content['model']['origin']}: estimate",
        "",
        f"{content['model']['class']} in {content['model']['dtype']}: {found['layers']} layers, "
        f"{found['parameters']:,} parameters, {found['flops']:,} FLOPs.",
        "",
        "| of the | at most | one layer |",
        "|---|---:|---:|",
        *(
            f"| {kind} | {each['largest']:.4f} | {each['smallest_layer']:.4f}–{each['largest_layer']:.4f} |"
            for kind, each in found["reachable"].items()
        ),
        "",
        *_asked(found),
        "At most what stays with one segment; an analysis finds segments, and each keeps a layer.",
        "",
        f"{memory}, of the {found['available_memory_bytes'] / 1e6:,.0f} MB that the worker has free"
        f"{'; the weights stay on disk' if found['streamed'] else ''}.",
        "",
        "| phase | seconds |",
        "|---|---:|",
        *(f"| {name} | {seconds:,.1f} |" for name, seconds in found["seconds"].items()),
        f"| all | {found['total_seconds']:,.1f} |",
    ]
    return "\n".join(lines) + "\n"


def report_page(report: AnalyzeReport | CompressReport | SweepReport) -> str:
    """`report.md` of a job."""
    content = report.to_dict()
    who = "an earlier job on the same model and data" if report.analysis.reused else "this job"
    text = f"{report_to_markdown(content)}\nAnalysis `{report.analysis.key[:12]}`, measured by {who}.\n"
    if isinstance(report, SweepReport):
        text += f"\n{sweep_section(report.sweep)}"
    if isinstance(report, CompressReport) and report.quality_target:
        text += f"\n{quality_target_section(report.quality_target)}"
    return text


def estimate_page(report: EstimateReport) -> str:
    """`report.md` of an estimate."""
    return estimate_to_markdown(report.to_dict())


def sweep_section(sweep: SweepSection) -> str:
    return sweep_to_markdown(to_json_object(sweep))


def quality_target_section(target: QualityTargetSection) -> str:
    return quality_to_markdown(to_json_object(target))
