"""The whole story on one screen: open, measure, plan, repair, heal, evaluate, write, verify, report."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sglp_core.artifact.verify import Verification, require, verify
from sglp_core.artifact.write import Artifact, write_artifact
from sglp_core.checkpoints.fetch import Fetched
from sglp_core.evaluation.footprint import Footprint, measure_footprint, weigh
from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.execution.variant import Variant
from sglp_core.fresh_process import FreshProcesses
from sglp_core.healing.heal import Healed, Training, heal, require_trainable
from sglp_core.healing.required_memory import require_room
from sglp_core.healing.training_state import kept_state
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.options import Options, QualityTarget, Target
from sglp_core.pipeline.run import Measured, choose_for_run, device_memory_reported, measure_for_run, open_for_run
from sglp_core.planning.choose import Choice, control_plans
from sglp_core.planning.quality_budget import QualitySearch
from sglp_core.repair.repair import Repaired, repair
from sglp_core.reporting.comparison import SGLP, before_after, control_rows, stage_rows
from sglp_core.reporting.inputs import (
    PlacementSection,
    analysis_section,
    calibration_section,
    evaluation_section,
    model_section,
    placement_section,
)
from sglp_core.reporting.plan import plan_section, proposal_rows
from sglp_core.reporting.quality_target import quality_target_section
from sglp_core.reporting.report import CompressReport
from sglp_core.reporting.verification import verification_section
from sglp_core.reporting.weight_changes import healing_section, repair_section
from sglp_core.reporting.write_report import write_report
from sglp_core.run_context import RunContext


@device_memory_reported()
def compress(
    model: str | Fetched,
    target: Target | QualityTarget,
    output: Path,
    options: Options = Options(),
    context: RunContext = RunContext(),
) -> CompressReport:
    """Make a model smaller: writes the verified artifact and its evidence to `output` and returns the report.

    Raises a subclass of `SGLPError` for everything that can go wrong with the input, the target or the result.
    """
    loaded = open_for_run(model, output, options, context)
    _require_possible(loaded, target, options)
    measured = measure_for_run(loaded, options, context)
    planned = _plan(measured, target, options, context)
    removed = planned.choice.plan.removed_layers
    repaired = planned.choice.repaired or repair(
        loaded, measured.data.calibration(loaded), removed, options.method.repair, context.phase("repairing")
    )
    healed, forget_healing = _heal(measured, Variant(removed, repaired.changes), options, context)
    stages = _stages(removed, repaired, healed)
    *earlier, last = stages
    variants = {SGLP: stages[last], **planned.controls, **{name: stages[name] for name in earlier}}
    quality = evaluate(loaded, measured.data.evaluation(loaded), variants, context.phase("evaluating"))
    quality[last] = quality[SGLP]
    placement = placement_section(loaded)
    output.mkdir(parents=True, exist_ok=True)
    checked = _write_and_verify(measured, stages[last], output, options, context)
    report = _report(measured, Evidence(planned, repaired, healed, tuple(stages), quality, placement, checked), options)
    with context.phase("publishing").single_step():
        write_report(output, report, measured.analysis)
    # Only now: an attempt that fails after its last step need not heal again.
    forget_healing()
    return report


@dataclass(frozen=True)
class Planned:
    """The plan that was chosen, the search for it where the target is a quality, and the controls beside it."""

    choice: Choice
    search: QualitySearch | None
    controls: dict[str, Variant]


@dataclass(frozen=True)
class CheckedArtifact:
    """An artifact on disk, the proof that it loads, and the footprints of the dense model and of it."""

    artifact: Artifact
    verification: Verification
    footprints: tuple[Footprint, Footprint]


@dataclass(frozen=True)
class Evidence:
    """What the steps found; `stages` are the names of those that changed the model, in order."""

    planned: Planned
    repaired: Repaired
    healed: Healed
    stages: tuple[str, ...]
    quality: dict[str, Quality]
    placement: PlacementSection
    checked: CheckedArtifact


def _require_possible(loaded: LoadedModel, target: Target | QualityTarget, options: Options) -> None:
    """Refuse, before any work, what cannot be done with this model."""
    require_trainable(options.healing, loaded)
    require_room(loaded, options.healing, target)


def _plan(measured: Measured, target: Target | QualityTarget, options: Options, context: RunContext) -> Planned:
    """Choose the plan, and as many layers by each control."""
    with context.phase("planning").single_step():
        choice, search = choose_for_run(measured, target, options, context.phase("planning"))
        controls = {}
        if options.evaluation.controls:
            controls = control_plans(measured.analysis, len(choice.plan.removed_layers), options)
        context.reporter.planned(choice.plan.to_dict())
    return Planned(choice, search, {name: Variant(plan.removed_layers) for name, plan in controls.items()})


def _stages(removed: tuple[int, ...], repaired: Repaired, healed: Healed) -> dict[str, Variant]:
    """The model after each step that changed it, in order; the last is what is written."""
    changes = {"pruned": {}, "repaired": repaired.changes, "healed": healed.changes if healed.step else {}}
    return {name: Variant(removed, each) for name, each in changes.items() if each or name == "pruned"}


def _heal(
    measured: Measured, pruned: Variant, options: Options, context: RunContext
) -> tuple[Healed, Callable[[], None]]:
    """The healed weights, and a function that removes the state that was kept of the healing."""
    loaded, data, healing = measured.loaded, measured.data, options.healing
    kept = kept_state(loaded, data, pruned, healing, context.cache) if healing.steps else None
    training = Training(healing, data.seed, kept)
    healed = heal(loaded, data.calibration(loaded), pruned, training, context.phase("healing"))
    return healed, kept.drop if kept else lambda: None


def _write_and_verify(
    measured: Measured, variant: Variant, output: Path, options: Options, context: RunContext
) -> CheckedArtifact:
    """Write the model to `output/model`, prove that it loads, and measure its footprint; frees the dense weights."""
    loaded, length = measured.loaded, options.calibration.sequence_length
    with (
        tempfile.TemporaryDirectory(dir=output, prefix=".scratch-") as scratch,
        FreshProcesses(Path(scratch)) as fresh,
    ):
        with context.phase("pruning").single_step():
            artifact = write_artifact(loaded, variant, measured.data.probe, output / "model")
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


def _report(measured: Measured, evidence: Evidence, options: Options) -> CompressReport:
    planned, checked, quality = evidence.planned, evidence.checked, evidence.quality
    plan = planned.choice.plan
    removed = {SGLP: plan.removed_layers} | {name: tuple(each.removed) for name, each in planned.controls.items()}
    return CompressReport(
        model=model_section(measured.loaded),
        method=options.method,
        calibration=calibration_section(options.calibration, measured.analysis),
        analysis=analysis_section(measured.analysis, measured.origin),
        placement=evidence.placement,
        plan=plan_section(plan),
        proposals=proposal_rows(planned.choice.proposals),
        table=before_after(
            _remaining(measured.loaded, checked.artifact), (quality["dense"], quality[SGLP]), checked.footprints
        ),
        stages=stage_rows({name: quality[name] for name in ("dense", *evidence.stages)}),
        repair=repair_section(evidence.repaired),
        healing=healing_section(options.healing, evidence.healed),
        controls=control_rows(quality, removed),
        evaluation=evaluation_section(options.evaluation, measured.data),
        verification=verification_section(checked.verification),
        layer_map={str(old): new for old, new in checked.artifact.layer_map.items()},
        quality_target=quality_target_section(planned.search, quality["dense"], quality[SGLP])
        if planned.search
        else None,
    )
