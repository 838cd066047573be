"""An estimate as a page for people."""

from typing import Any


def _asked(found: dict[str, Any]) -> list[str]:
    target = found.get("target")
    if target is None:
        return []
    most = found["reachable"][target["kind"]]["largest"]
    said = "can be reached" if target["reachable"] else f"**cannot be reached** (at most {most:.4f})"
    return [f"Asked for: {target['ratio']:.4g} of the {target['kind']}; that {said}.", ""]


def to_markdown(content: dict[str, Any]) -> str:
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
