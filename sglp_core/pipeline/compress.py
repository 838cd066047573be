"""The whole story on one screen: open, measure, plan, repair, heal, evaluate, write, verify, report."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sglp_core.artifact.verify import Verification, require, verify
from sglp_core.artifact.write import Artifact, write_artifact
from sglp_core.checkpoints.fetch import Fetched
from sglp_core.evaluation.footprint import Footprint, measure_footprint, weigh
from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.execution.available_memory import give_back_memory
from sglp_core.execution.variant import Variant
from sglp_core.fresh_process import FreshProcesses
from sglp_core.healing.heal import Healed, Training, heal, require_trainable
from sglp_core.healing.required_memory import require_room
from sglp_core.healing.training_state import kept_state
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.options import LayersTarget, Options, PlanTarget, QualityTarget, RemovalTarget, Target
from sglp_core.pipeline.kept_repairs import find_or_repair
from sglp_core.pipeline.run import (
    Measured,
    Prepared,
    choose_for_run,
    device_memory_reported,
    measure_for_run,
    open_for_run,
    prepare_for_run,
    run_key,
)
from sglp_core.planning.choose import Choice, control_plans
from sglp_core.planning.given_plan import controls_of_given, given_plan
from sglp_core.planning.layer_kinds import require_count
from sglp_core.planning.plan import Plan
from sglp_core.planning.quality_budget import QualitySearch
from sglp_core.repair.repair import Repaired, repair_plans
from sglp_core.reporting.comparison import SGLP, before_after, control_rows, stage_rows
from sglp_core.reporting.inputs import (
    PlacementSection,
    analysis_section,
    calibration_section,
    evaluation_section,
    files_section,
    model_section,
    placement_section,
)
from sglp_core.reporting.plan import plan_section, proposal_rows
from sglp_core.reporting.quality_target import quality_target_section
from sglp_core.reporting.report import CompressReport
from sglp_core.reporting.verification import verification_section
from sglp_core.reporting.weight_changes import HealingSection, RepairSection, healing_section, repair_section
from sglp_core.reporting.write_report import write_report
from sglp_core.run_context import RunContext
from sglp_core.structure.config import read_config
from sglp_core.structure.runs import Removed

# New weights of some layers of each plan that is compared.
REPAIRS_BYTES = 8 << 30


@device_memory_reported()
def compress(
    model: str | Fetched,
    target: RemovalTarget,
    output: Path,
    options: Options = Options(),
    context: RunContext = RunContext(),
) -> CompressReport:
    """Make a model smaller: writes the verified artifact and its evidence to `output` and returns the report.

    With a `PlanTarget` nothing is measured and chosen: the layers go, and the rest is as for other targets.
    Raises a subclass of `SGLPError` for everything that can go wrong with the input, the target or the result.
    """
    loaded = open_for_run(model, output, options, context)
    fitting = _require_possible(loaded, target, options)
    if isinstance(fitting, Plan):
        prepared = prepare_for_run(loaded, options, context)
        planned = _take(fitting, loaded, options, context)
    else:
        prepared = measured = measure_for_run(loaded, options, context)
        planned = _plan(measured, fitting, options, context)
    compressed = _repair_and_heal(prepared, planned, options, context)
    placement = placement_section(loaded)
    output.mkdir(parents=True, exist_ok=True)
    checked = _write_and_verify(prepared, compressed.written, output, options, context)
    report = _report(prepared, Evidence(planned, compressed, placement, checked), options)
    with context.phase("publishing").single_step():
        analysis = prepared.analysis if isinstance(prepared, Measured) else None
        write_report(output, report, analysis, prepared.loaded.source.card.text)
    # Only now: an attempt that fails after its last step need not heal again.
    compressed.forget_healing()
    return report


@dataclass(frozen=True)
class Planned:
    """The plan that was chosen, the search for it where the target is a quality, and the layers that the plan (`sglp`)
    and each control remove."""

    choice: Choice
    search: QualitySearch | None
    removed: dict[str, Removed]


@dataclass(frozen=True)
class Compressed:
    """What is to be written, how it came about, and its quality by control and stage.

    `forget_healing` removes the state that was kept of the healing.
    """

    written: Variant
    repair: RepairSection
    healing: HealingSection
    quality: dict[str, dict[str, Quality]]
    forget_healing: Callable[[], None]


@dataclass(frozen=True)
class CheckedArtifact:
    """An artifact on disk, the proof that it loads, and the footprints of the dense model and of it."""

    artifact: Artifact
    verification: Verification
    footprints: tuple[Footprint, Footprint]


@dataclass(frozen=True)
class Evidence:
    """What the steps found."""

    planned: Planned
    compressed: Compressed
    placement: PlacementSection
    checked: CheckedArtifact


def _require_possible(loaded: LoadedModel, target: RemovalTarget, options: Options) -> Target | QualityTarget | Plan:
    """The target as it is for this model, where the layers are named a plan; before any work, what cannot be done is
    refused."""
    stack, method = loaded.stack, options.method
    require_trainable(options.healing, loaded)
    fitting: Target | QualityTarget | Plan
    if isinstance(target, PlanTarget):
        fitting = given_plan(target, stack, read_config(loaded.source.directory), method)
    elif isinstance(target, LayersTarget):
        fitting = target.of(len(stack))
        require_count(stack, round(fitting.ratio * len(stack)), method.protected_in(len(stack)))
    else:
        fitting = target
    require_room(loaded, options.healing, fitting)
    return fitting


def _take(plan: Plan, loaded: LoadedModel, options: Options, context: RunContext) -> Planned:
    """The plan that was given, and as many layers by the controls that need no measurement."""
    with context.phase("planning").single_step():
        plans = {SGLP: plan}
        if options.evaluation.controls:
            plans |= controls_of_given(plan.removed_layers, loaded.stack, options)
        context.reporter.planned(plan.to_dict())
    return Planned(Choice(plan, []), None, {name: each.removed_layers for name, each in plans.items()})


def _plan(measured: Measured, target: Target | QualityTarget, options: Options, context: RunContext) -> Planned:
    """Choose the plan, and as many layers by each control."""
    with context.phase("planning").single_step():
        choice, search = choose_for_run(measured, target, options, context, context.phase("planning"))
        plans = {SGLP: choice.plan}
        if options.evaluation.controls:
            plans |= control_plans(measured.analysis, len(choice.plan.removed_layers), options)
        context.reporter.planned(choice.plan.to_dict())
    return Planned(choice, search, {name: plan.removed_layers for name, plan in plans.items()})


def _repair_and_heal(prepared: Prepared, planned: Planned, options: Options, context: RunContext) -> Compressed:
    """Repair plan and controls, heal the plan, and judge each stage of all; only the last one's weights are kept."""
    repaired = _repair(prepared, planned, options, context)
    stages = {name: _stages(removed, repaired[name]) for name, removed in planned.removed.items()}
    healed, forget_healing = _heal(prepared, _last(stages[SGLP]), options, context)
    if healed.step:
        stages[SGLP]["healed"] = Variant(planned.removed[SGLP], healed.changes)
    return Compressed(
        written=_last(stages[SGLP]),
        repair=repair_section(repaired[SGLP]),
        healing=healing_section(options.healing, healed),
        quality=_evaluate(prepared, stages, context),
        forget_healing=forget_healing,
    )


def _repair(prepared: Prepared, planned: Planned, options: Options, context: RunContext) -> dict[str, Repaired]:
    """The repairs of the plan and of the controls, in one walk; those that remove the same layers are repaired once."""
    loaded, different = prepared.loaded, list(dict.fromkeys(planned.removed.values()))
    batches, progress = prepared.data.calibration(loaded), context.phase("repairing")
    repaired = find_or_repair(
        context.results("repairs", REPAIRS_BYTES),
        run_key(prepared, options) | {"removed": different},
        lambda: repair_plans(loaded, batches, different, options.method.repair, progress, prepared.finder),
    )
    by_removed = dict(zip(different, repaired, strict=True))
    return {name: by_removed[removed] for name, removed in planned.removed.items()}


def _stages(removed: Removed, repaired: Repaired) -> dict[str, Variant]:
    """The model as cut and, where a repair changed it, after that."""
    changes = {"pruned": {}, "repaired": repaired.changes}
    return {name: Variant(removed, each) for name, each in changes.items() if each or name == "pruned"}


def _last(stages: Mapping[str, Variant]) -> Variant:
    """What is written."""
    return list(stages.values())[-1]


def _evaluate(
    prepared: Prepared, stages: Mapping[str, Mapping[str, Variant]], context: RunContext
) -> dict[str, dict[str, Quality]]:
    """Quality of the plan and of each control by the name of the stage; the plan's first stage is the dense model."""
    loaded, progress = prepared.loaded, context.phase("evaluating")
    variants = {f"{name} {stage}": each for name, own in stages.items() for stage, each in own.items()}
    quality = evaluate(loaded, prepared.data.evaluation(loaded), variants, progress)
    by_stage = {name: {stage: quality[f"{name} {stage}"] for stage in own} for name, own in stages.items()}
    return by_stage | {SGLP: {"dense": quality["dense"], **by_stage[SGLP]}}


def _heal(
    prepared: Prepared, pruned: Variant, options: Options, context: RunContext
) -> tuple[Healed, Callable[[], None]]:
    """The healed weights, and a function that removes the state that was kept of the healing."""
    loaded, data, healing = prepared.loaded, prepared.data, options.healing
    kept = kept_state(loaded, data, pruned, healing, context) if healing.trains else None
    training = Training(healing, data.seed, kept, data.training(loaded))
    give_back_memory()
    healed = heal(loaded, data.calibration(loaded), pruned, training, context.phase("healing"))
    return healed, kept.drop if kept else lambda: None


def _write_and_verify(
    prepared: Prepared, variant: Variant, output: Path, options: Options, context: RunContext
) -> CheckedArtifact:
    """Write the model to `output/model`, prove that it loads, and measure its footprint; frees all weights."""
    loaded, length = prepared.loaded, options.calibration.sequence_length
    with (
        tempfile.TemporaryDirectory(dir=output, prefix=".scratch-") as scratch,
        FreshProcesses(Path(scratch)) as fresh,
    ):
        with context.phase("pruning").single_step():
            artifact = write_artifact(loaded, variant, prepared.data.probe, output / "model")
        with context.phase("verifying").single_step():
            verification = verify([artifact.written], fresh)[0]
            require(verification)
        footprints = []
        progress = context.phase("evaluating")
        progress.start(2, "footprints")
        # Running a model that does not fit in memory would time the disk.
        measure = weigh if artifact.written.offloaded else measure_footprint
        for directory in (loaded.source.directory, output / "model"):
            footprints.append(measure(directory, length, loaded.task == "causal_lm", fresh))
            progress.advance()
    return CheckedArtifact(artifact, verification, (footprints[0], footprints[1]))


def _remaining(loaded: LoadedModel, artifact: Artifact) -> dict[str, tuple[int, int]]:
    """Layers, parameters and FLOPs before and after."""
    stack = loaded.stack
    removed = sum(layer.flops for layer in stack.layers if layer.index not in artifact.layer_map)
    return {
        "layers": (len(stack), len(artifact.layer_map)),
        "parameters": (stack.total_parameters, artifact.parameters),
        "flops": (stack.total_flops, stack.total_flops - removed),
    }


def _report(prepared: Prepared, evidence: Evidence, options: Options) -> CompressReport:
    planned, checked, quality = evidence.planned, evidence.checked, evidence.compressed.quality
    dense, *_, written = quality[SGLP].values()
    return CompressReport(
        model=model_section(prepared.loaded),
        method=options.method,
        calibration=calibration_section(options.calibration, prepared.data),
        analysis=analysis_section(prepared.analysis, prepared.origin) if isinstance(prepared, Measured) else None,
        placement=evidence.placement,
        plan=plan_section(planned.choice.plan),
        proposals=proposal_rows(planned.choice.proposals),
        table=before_after(_remaining(prepared.loaded, checked.artifact), (dense, written), checked.footprints),
        stages=stage_rows(quality[SGLP]),
        repair=evidence.compressed.repair,
        healing=evidence.compressed.healing,
        controls=control_rows(quality, planned.removed),
        evaluation=evaluation_section(options.evaluation, prepared.data),
        verification=verification_section(checked.verification),
        files=files_section(prepared.loaded.source),
        layer_map={str(old): new for old, new in checked.artifact.layer_map.items()},
        quality_target=quality_target_section(planned.search, dense, written) if planned.search else None,
    )
