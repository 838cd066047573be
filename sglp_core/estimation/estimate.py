"""What a job would take, estimated from configuration and tensor headers: reachable ratios, peak memory, seconds."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from sglp_core.checkpoints.fetch import FetchedOutline
from sglp_core.estimation.memory import expected_memory
from sglp_core.estimation.model_outline import Outline, read_outline
from sglp_core.estimation.seconds import Speed, expected_seconds, measure_speed
from sglp_core.execution.available_memory import available_bytes
from sglp_core.execution.placement import WEIGHTS_SHARE
from sglp_core.options import LayersTarget, Method, Options, PlanTarget, SizedTarget, TargetKind
from sglp_core.planning.given_plan import given_plan
from sglp_core.planning.layer_kinds import largest_removable, removable_counts
from sglp_core.reporting.estimate import (
    EstimatedTarget,
    EstimateSection,
    LayerSize,
    OutlinedModelSection,
    ReachableRatio,
    SpeedSection,
)
from sglp_core.reporting.report import EstimateReport
from sglp_core.reporting.write_report import write_estimate
from sglp_core.run_context import RunContext

KINDS: tuple[TargetKind, ...] = ("parameters", "flops", "layers")
# The ratio assumed where there is no target.
ASSUMED_RATIO = 0.25


def estimate(
    model: str | FetchedOutline,
    output: Path,
    target: SizedTarget | None = None,
    options: Options = Options(),
    context: RunContext = RunContext(),
) -> EstimateReport:
    """Estimate a job from configuration and tensor headers; writes a report to `output` and returns it.

    Raises the errors of `read_outline`, and those of `given_plan` and `LayersTarget.of`.
    """
    with context.phase("fetching").single_step():
        outline = read_outline(
            model, options.revision, options.calibration.sequence_length, context.cache, context.roots
        )
    with context.phase("planning").single_step():
        report = EstimateReport(
            OutlinedModelSection(
                outline.origin, outline.revision, outline.format, outline.class_name, outline.dtype, outline.notes
            ),
            _estimated(outline, target, options, measure_speed(outline.torch_dtype)),
        )
    output.mkdir(parents=True, exist_ok=True)
    with context.phase("publishing").single_step():
        write_estimate(output, report)
    return report


def _estimated(
    outline: Outline,
    target: SizedTarget | None,
    options: Options,
    speed: Speed,
) -> EstimateSection:
    stack, method = outline.stack, options.method
    reachable = {kind: _reachable(outline, kind, method) for kind in KINDS}
    estimated = _estimated_target(outline, target, method, reachable)
    layers = _removed_layers(outline, estimated)
    phases = expected_seconds(outline, layers, options, speed)
    if isinstance(target, PlanTarget):
        # Nothing is measured and chosen.
        phases |= {"measuring": 0.0, "planning": 0.0}
    memory = expected_memory(outline, layers, options)
    available = available_bytes()
    return EstimateSection(
        layers=len(stack),
        parameters=stack.total_parameters,
        flops=stack.total_flops,
        weight_bytes=outline.weight_bytes,
        stack=tuple(LayerSize(each.index, each.name, each.parameters, each.flops) for each in stack.layers),
        reachable=reachable,
        target=estimated,
        memory_bytes=memory,
        peak_memory_bytes=_largest(memory.values()),
        available_memory_bytes=available,
        streamed=outline.weight_bytes > WEIGHTS_SHARE * available,
        seconds={name: round(seconds, 1) for name, seconds in phases.items()},
        total_seconds=round(sum(phases.values()), 1),
        speed=SpeedSection(speed.flops_per_second, speed.bytes_per_second),
    )


def _estimated_target(
    outline: Outline, target: SizedTarget | None, method: Method, reachable: Mapping[TargetKind, ReachableRatio]
) -> EstimatedTarget | None:
    stack = outline.stack
    if target is None:
        return None
    if isinstance(target, PlanTarget):
        given = given_plan(target, stack, outline.config, method)
        return EstimatedTarget("layers", given.achieved, reachable=True, exact=True)
    if isinstance(target, LayersTarget):
        ratio = target.of(len(stack)).ratio
        counts = removable_counts(stack, method.protected_in(len(stack)))
        return EstimatedTarget("layers", ratio, round(ratio * len(stack)) in counts, exact=True)
    return EstimatedTarget(target.kind, target.ratio, target.ratio <= reachable[target.kind].largest)


def _largest(values: Iterable[int | None]) -> int | None:
    """None where one is not known."""
    known = list(values)
    return None if None in known else max(value for value in known if value is not None)


def _reachable(outline: Outline, kind: str, method: Method) -> ReachableRatio:
    """The largest ratio with one segment for each stage, and what the smallest and largest removable layer make up."""
    stack = outline.stack
    sizes, total = stack.sizes(kind)
    protected = method.protected_in(len(stack))
    removable = [size / total for index, size in enumerate(sizes) if index not in protected]
    return ReachableRatio(
        largest=largest_removable(stack, kind, protected) / total,
        smallest_layer=min(removable, default=0.0),
        largest_layer=max(removable, default=0.0),
    )


def _removed_layers(outline: Outline, target: EstimatedTarget | None) -> int:
    sizes, total = outline.stack.sizes(target.kind if target else "parameters")
    ratio = target.ratio if target else ASSUMED_RATIO
    return min(len(sizes) - 1, max(1, round(ratio * total * len(sizes) / sum(sizes))))
