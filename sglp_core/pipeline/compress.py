"""The whole story on one screen: open, measure, plan, repair, heal, evaluate, write, verify, report."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sglp_core.artifact.verify import Verification, require, verify
from sglp_core.artifact.write import Artifact, write_artifact
from sglp_core.checkpoints.fetch import Fetched
from sglp_core.errors import OutOfMemory
from sglp_core.evaluation.footprint import Footprint, measure_footprint, weigh
from sglp_core.evaluation.quality import evaluate
from sglp_core.fresh_process import FreshProcesses
from sglp_core.healing.heal import Healed, Training, heal, require_trainable
from sglp_core.healing.training_state import kept_state
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.options import Options, QualityTarget, Target
from sglp_core.pipeline.run import Measured, choose_for_run, measure_for_run, open_for_run
from sglp_core.planning.choose import control_plans
from sglp_core.removal.variant import Variant
from sglp_core.repair.repair import repair
from sglp_core.reporting.comparison import before_after, control_rows, stage_rows
from sglp_core.reporting.inputs import analysis_section, calibration_section, evaluation_section, model_section
from sglp_core.reporting.plan import plan_section, proposal_rows
from sglp_core.reporting.quality_target import quality_target_section
from sglp_core.reporting.report import CompressReport
from sglp_core.reporting.verification import verification_section
from sglp_core.reporting.weight_changes import healing_section, repair_section
from sglp_core.reporting.write_report import write_report
from sglp_core.run_context import RunContext


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
    _require_possible(loaded, options)
    measured = measure_for_run(loaded, options, context)

    planning = context.phase("planning")
    with planning.single_step():
        choice, search = choose_for_run(measured, target, options, context.phase("planning"))
        plan = choice.plan
        plans = {"sglp": plan}
        if options.evaluation.controls:
            plans |= control_plans(measured.analysis, len(plan.removed_layers), options)
        context.reporter.planned(plan.to_dict())

    batches = measured.data.calibration(loaded)
    repaired = choice.repaired or repair(
        loaded, batches, plan.removed_layers, options.method.repair, context.phase("repairing")
    )
    healed, forget_healing = _heal(measured, Variant(plan.removed_layers, repaired.changes), options, context)
    stages = {"pruned": {}, "repaired": repaired.changes, "healed": healed.changes if healed.step else {}}
    *earlier, last = [name for name, changes in stages.items() if changes or name == "pruned"]

    variants = {name: Variant(each.removed_layers) for name, each in plans.items()}
    variants |= {name: Variant(plan.removed_layers, stages[name]) for name in earlier}
    variants["sglp"] = Variant(plan.removed_layers, stages[last])
    quality = evaluate(loaded, measured.data.evaluation(loaded), variants, context.phase("evaluating"))

    output.mkdir(parents=True, exist_ok=True)
    checked = _write_and_verify(measured, variants["sglp"], output, options, context)

    report = CompressReport(
        model=model_section(loaded),
        method=options.method,
        calibration=calibration_section(options.calibration, measured.analysis),
        analysis=analysis_section(measured.analysis, measured.origin),
        plan=plan_section(plan),
        proposals=proposal_rows(choice.proposals),
        table=before_after(
            _remaining(loaded, checked.artifact), (quality["dense"], quality["sglp"]), checked.footprints
        ),
        stages=stage_rows({n: quality[n] for n in ("dense", *earlier)} | {last: quality["sglp"]}),
        repair=repair_section(repaired),
        healing=healing_section(options.healing, healed),
        controls=control_rows(quality, {n: p.removed_layers for n, p in plans.items()}),
        evaluation=evaluation_section(options.evaluation, measured.data),
        verification=verification_section(checked.verification),
        layer_map={str(old): new for old, new in checked.artifact.layer_map.items()},
        quality_target=quality_target_section(search, quality["dense"], quality["sglp"]) if search else None,
    )
    with context.phase("publishing").single_step():
        write_report(output, report, measured.analysis)
    # Only now: an attempt that fails after its last step need not heal again.
    forget_healing()
    return report


@dataclass(frozen=True)
class CheckedArtifact:
    """An artifact on disk, the proof that it loads, and the footprints of the dense model and of it."""

    artifact: Artifact
    verification: Verification
    footprints: tuple[Footprint, Footprint]


def _require_possible(loaded: LoadedModel, options: Options) -> None:
    """Refuse, before any work, what cannot be done with this model."""
    needs_memory = options.method.repair not in {"none", "auto"} or options.healing.steps
    if isinstance(loaded.model, StreamedModel) and needs_memory:
        raise OutOfMemory("the model does not fit in memory, and repair and healing need it there; leave them out")
    require_trainable(options.healing, loaded)


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
