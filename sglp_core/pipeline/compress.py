"""The whole story on one screen: open, calibrate, measure, plan, remove, verify, evaluate, write."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sglp_core.analysis.cache import find_or_measure
from sglp_core.analysis.measure import measure
from sglp_core.analysis.result import Analysis
from sglp_core.artifact.verify import require, verify
from sglp_core.artifact.write import prune
from sglp_core.checkpoints.fetch import DEFAULT_CACHE, Fetched
from sglp_core.data.calibration_data import Data, prepare
from sglp_core.errors import OutOfMemory
from sglp_core.evaluation.footprint import measure_footprint, weigh
from sglp_core.evaluation.quality import evaluate
from sglp_core.fresh_process import FreshProcesses
from sglp_core.healing.heal import Healed, heal, require_trainable
from sglp_core.healing.training_state import kept_state
from sglp_core.loading.loaded_model import Opened
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.options import Calibration, Evaluation, Healing, Memory, Method, QualityTarget, Target
from sglp_core.pipeline.run import open_for_run
from sglp_core.planning import quality_budget
from sglp_core.planning.choose import Choice, choose_plan, control_plans
from sglp_core.planning.plan import Plan
from sglp_core.progress import Observer, Silent, phase, reporter
from sglp_core.removal.weight_changes import Changes
from sglp_core.repair.repair import repair
from sglp_core.reporting.comparison import before_after, control_rows, stage_rows
from sglp_core.reporting.inputs import analysis_section, calibration_section, evaluation_section, model_section
from sglp_core.reporting.plan import plan_section, proposal_rows
from sglp_core.reporting.quality_target import quality_target_section
from sglp_core.reporting.report import CompressReport
from sglp_core.reporting.verification import verification_section
from sglp_core.reporting.weight_changes import healing_section, repair_section
from sglp_core.reporting.write_report import write_report
from sglp_core.structure.layer_signature import require_layout
from sglp_core.structure.layer_stack import layers_of


def compress(
    model: str | Fetched,
    target: Target | QualityTarget,
    output: Path,
    *,
    revision: str | None = None,
    method: Method = Method(),
    calibration: Calibration = Calibration(),
    evaluation: Evaluation = Evaluation(),
    healing: Healing = Healing(),
    roots: Sequence[Path] | None = None,
    local: Mapping[str, Path] = MappingProxyType({}),
    cache: Path | None = None,
    memory: Memory = "auto",
    observer: Observer = Silent(),
) -> CompressReport:
    """Make a model smaller: writes the verified artifact and its evidence to `output` and returns the report.

    Raises a subclass of `SGLPError` for everything that can go wrong with the input, the target or the result.
    """
    cache = (cache or DEFAULT_CACHE).expanduser()
    opened = open_for_run(model, revision, calibration, roots, cache, memory, observer, output)
    if isinstance(opened.model, StreamedModel) and (method.repair not in {"none", "auto"} or healing.steps):
        raise OutOfMemory("the model does not fit in memory, and repair and healing need it there; leave them out")
    require_trainable(healing, opened.model, opened.stack.path)
    data = prepare(opened, calibration, evaluation, roots, cache, reporter(observer, "calibrating"), local)
    analysis, origin = find_or_measure(
        opened, data, method, cache, lambda: measure(opened, data, method, calibration, observer)
    )

    with phase(observer, "planning"):
        choice, within = _choose(
            opened, analysis, target, method, data, calibration.seed, reporter(observer, "planning")
        )
        chosen, proposals = choice.plan, choice.proposals
        plans = {"sglp": chosen}
        if evaluation.controls:
            plans |= control_plans(analysis, len(chosen.removed_layers), method, calibration.seed)
        observer.planned(chosen.to_dict())

    layers = layers_of(opened.model, opened.stack.path)
    tell = reporter(observer, "repairing")
    repaired = choice.repaired or repair(
        opened.model,
        opened.stack.path,
        data.calibration(opened),
        opened.task,
        chosen.removed_layers,
        method.repair,
        lambda done, total: tell(done, total, "cuts"),
    )

    healed, forget_healing = _heal(
        opened, data, chosen, repaired.changes, healing, cache, reporter(observer, "healing")
    )
    stages = {"pruned": {}, "repaired": repaired.changes, "healed": healed.changes if healed.step else {}}
    *earlier, last = [name for name, changes in stages.items() if changes or name == "pruned"]

    tell = reporter(observer, "evaluating")
    batches = data.evaluation(opened)
    done = iter(range(1, len(batches) + 1))
    tell(0, len(batches), "batches")
    quality = evaluate(
        opened.model,
        layers,
        batches,
        opened.task,
        {name: p.removed_layers for name, p in plans.items()} | dict.fromkeys(earlier, chosen.removed_layers),
        lambda: tell(next(done), len(batches), "batches"),
        weights={"sglp": stages[last]} | {name: stages[name] for name in earlier},
    )

    output.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(dir=output, prefix=".scratch-")
    with scratch as name, FreshProcesses(Path(name)) as fresh:
        with phase(observer, "pruning"):
            pruned = prune(opened, chosen, stages[last], data.probe, output / "model")
            remaining = {
                "layers": (len(opened.stack), len(pruned.layer_map)),
                "parameters": (opened.stack.total_parameters, pruned.parameters),
                "flops": (
                    opened.stack.total_flops,
                    opened.stack.total_flops - sum(opened.stack.layers[i].flops for i in chosen.removed_layers),
                ),
            }
        with phase(observer, "verifying"):
            proof = verify([pruned.written], fresh)[0]
            require(proof)
        tell(0, 2, "footprints")
        decodes = opened.task == "causal_lm"
        # Running a model that does not fit in memory would time the disk.
        cost = weigh if pruned.written.offloaded else measure_footprint
        dense_cost = cost(opened.source.directory, calibration.sequence_length, decodes, fresh)
        tell(1, 2, "footprints")
        pruned_cost = cost(output / "model", calibration.sequence_length, decodes, fresh)
        tell(2, 2, "footprints")

    report = CompressReport(
        model=model_section(opened),
        method=method,
        calibration=calibration_section(calibration, analysis),
        analysis=analysis_section(analysis, origin),
        plan=plan_section(chosen),
        proposals=proposal_rows(proposals),
        table=before_after(remaining, (quality["dense"], quality["sglp"]), (dense_cost, pruned_cost)),
        stages=stage_rows({n: quality[n] for n in ("dense", *earlier)} | {last: quality["sglp"]}),
        repair=repair_section(repaired),
        healing=healing_section(healing, healed),
        controls=control_rows(quality, {n: p.removed_layers for n, p in plans.items()}),
        evaluation=evaluation_section(evaluation, data),
        verification=verification_section(proof),
        layer_map={str(old): new for old, new in pruned.layer_map.items()},
        quality_target=quality_target_section(within, quality["dense"], quality["sglp"]) if within else None,
    )
    with phase(observer, "publishing"):
        write_report(output, report, analysis)
    # Only now: an attempt that fails after its last step need not heal again.
    forget_healing()
    return report


def _choose(
    opened: Opened,
    analysis: Analysis,
    target: Target | QualityTarget,
    method: Method,
    data: Data,
    seed: int,
    tell: Any,
) -> tuple[Choice, quality_budget.Search | None]:
    if isinstance(target, QualityTarget):
        within = quality_budget.search(opened, analysis, target, method, data, seed, tell)
        # Repaired again on all of the calibration data: the search has used but half of it.
        choice = Choice(within.found.plan, within.found.proposals)
    else:
        within = None
        choice = choose_plan(opened, analysis, target, method, data.calibration(opened), seed, tell)
    require_layout(opened.source.directory, opened.stack, choice.plan.removed_layers)
    return choice, within


def _heal(
    opened: Opened, data: Data, plan: Plan, changes: Changes, healing: Healing, cache: Path, tell: Any
) -> tuple[Healed, Callable[[], None]]:
    """What came of healing, and how its kept state is removed once the job has ended."""
    kept = kept_state(opened, data, plan.removed_layers, changes, healing, cache) if healing.steps else None
    healed = heal(
        opened.model,
        opened.stack.path,
        data.calibration(opened),
        opened.task,
        plan.removed_layers,
        changes,
        healing,
        data.seed,
        lambda done: tell(done, healing.steps, "steps"),
        kept,
    )
    return healed, kept.drop if kept else lambda: None
