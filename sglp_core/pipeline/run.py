"""What all pipelines begin with: open the model, prepare its data, measure it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch

from sglp_core.analysis.cache import Origin, find_or_measure
from sglp_core.analysis.measure import measure
from sglp_core.analysis.result import Analysis
from sglp_core.checkpoints.fetch import Fetched
from sglp_core.data.calibration_data import CalibrationData, prepare
from sglp_core.errors import DeviceOutOfMemory
from sglp_core.execution.available_memory import give_back_memory
from sglp_core.loading.cache_key import common_key
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Healing, Options, QualityTarget, Target
from sglp_core.planning import quality_budget
from sglp_core.planning.choose import Choice, choose_plan
from sglp_core.planning.planning_run import PlanningRun
from sglp_core.progress import Phase, silent_phase
from sglp_core.repair import REPAIRS
from sglp_core.repair.named_repairs import folds
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.reporting.write_report import require_new
from sglp_core.run_context import RunContext
from sglp_core.step_journal import StepJournal
from sglp_core.structure.layer_signature import require_unchanged_layers
from sglp_core.versions import versions

# How many times smaller a batch is made that the device has no room for.
SMALLER_BATCH = 4


@dataclass(frozen=True)
class Prepared:
    """A model and the data for it; `finder` finds the weights that repairs change."""

    loaded: LoadedModel
    data: CalibrationData
    finder: WriteFinder


@dataclass(frozen=True)
class Measured(Prepared):
    """A model that was measured: with the analysis, and where that came from."""

    analysis: Analysis
    origin: Origin


@contextmanager
def device_memory_reported() -> Iterator[None]:
    """Turn PyTorch's error for a device without memory into `DeviceOutOfMemory`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceOutOfMemory(
            "the device has not enough memory for a batch of this model; give a smaller calibration.batch_size, or a "
            f"shorter sequence_length ({str(error).splitlines()[0]})"
        ) from error


def open_for_run(model: str | Fetched, output: Path, options: Options, context: RunContext) -> LoadedModel:
    """Load the model and report what it is; refuses an `output` that holds something.

    Raises `BadLayers` where the method protects layers that the model lacks.
    """
    require_new(output)
    loaded = load_model(model, options, context)
    options.method.protected_in(len(loaded.stack))
    context.reporter.resolved(
        {
            "model_sha256": loaded.source.digest,
            "revision": loaded.fetched.revision,
            "format": loaded.source.format,
            "class": loaded.class_name,
            "versions": versions(),
        }
    )
    return loaded


def prepare_for_run(loaded: LoadedModel, options: Options, context: RunContext) -> Prepared:
    """Prepare calibration and held-out data, for a run that measures nothing."""
    data = prepare(loaded, options.calibration, options.evaluation, context, options.healing)
    return Prepared(loaded, data, WriteFinder(loaded, data.calibration(loaded)[0]))


def measure_for_run(loaded: LoadedModel, options: Options, context: RunContext, *, evaluates: bool = True) -> Measured:
    """Prepare calibration data, and held-out data where the run `evaluates`; then measure, or find it measured.

    Where the device has no room for a batch, smaller ones are measured, once.
    """
    evaluation = options.evaluation if evaluates else None
    healing = options.healing if evaluates else Healing()
    data = prepare(loaded, options.calibration, evaluation, context, healing)
    try:
        return _measured(loaded, data, options, context, evaluates)
    except torch.OutOfMemoryError:
        if data.batch_size == 1:
            raise
    # Only here, where the error no longer keeps what did not fit.
    if loaded.layerwise is not None:
        loaded.layerwise.end_visits()
    give_back_memory()
    smaller = replace(data, batch_size=max(1, data.batch_size // SMALLER_BATCH))
    return _measured(loaded, smaller, options, context, evaluates)


def _measured(
    loaded: LoadedModel, data: CalibrationData, options: Options, context: RunContext, evaluates: bool
) -> Measured:
    batches = data.calibration(loaded)
    finder = WriteFinder(loaded, batches[0])

    def measure_now() -> Analysis:
        if evaluates and folds(loaded, options.method.repair):
            finder.start(batches)
        return measure(loaded, data, options, context.phase("measuring"))

    analysis, origin = find_or_measure(loaded, data, options.method, context.results("analyses"), measure_now)
    return Measured(loaded, data, finder, analysis, origin)


def run_key(prepared: Prepared, options: Options) -> dict[str, object]:
    """What every step after the analysis depends on, besides its own input."""
    return common_key(prepared.loaded) | {
        "analysis": prepared.origin.key if isinstance(prepared, Measured) else None,
        "calibration": prepared.data.calibration_digest,
        "batch_size": prepared.data.batch_size,
        "seed": prepared.data.seed,
        "method": asdict(options.method),
        "repairs": {name: sha256(row.source().encode()).hexdigest() for name, row in REPAIRS.items()},
    }


def choose_for_run(
    measured: Measured,
    target: Target | QualityTarget,
    options: Options,
    context: RunContext,
    progress: Phase | None = None,
) -> tuple[Choice, quality_budget.QualitySearch | None]:
    """The plan for a target, and for a quality target the search that found it. Raises `TargetUnreachable`.

    What an earlier run of the same has found in its trials is not tried again.
    """
    loaded, data, analysis = measured.loaded, measured.data, measured.analysis
    journal = StepJournal(context.results("trials"), run_key(measured, options) | {"target": asdict(target)})
    run = PlanningRun(progress or silent_phase(), journal)
    search = None
    if isinstance(target, QualityTarget):
        search = quality_budget.search(loaded, analysis, target, options, data, run)
        choice = search.best.choice
    else:
        choice = choose_plan(measured.finder, analysis, target, options, data.calibration(loaded), run)
    journal.write()
    require_unchanged_layers(loaded.source.directory, loaded.stack, choice.plan.removed_layers)
    return choice, search
