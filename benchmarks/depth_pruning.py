"""Depth pruning end to end beside `optipfair`: perplexity at the same layer count, and architectures that survive.

    python -m benchmarks.depth_pruning --data ../shared/data

`optipfair` takes part where it is installed: pip install optipfair. It scores layers by the cosine of their input and
output on the same calibration windows; the least important go. Its default, the last layers, is a row of its own.
"""

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table

from sglp_core.analysis.measure import measure
from sglp_core.data.calibration_data import CalibrationData
from sglp_core.data.token_windows import text_windows
from sglp_core.evaluation.logits import TOLERANCES, difference, probe_logits
from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.variant import Variant, bypassed
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Calibration, Method, Options, Target
from sglp_core.planning.choose import choose_plan
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.repair.write_finder import WriteFinder
from sglp_core.run_context import RunContext
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_service.demo import find_model
from tests.round_trip.models import CASES

CACHE = Path("~/.cache/sglp").expanduser()
REMOVED = ((2, 5), (0, 3), (4, 7))
Remove = Callable[[Any, Sequence[int]], Any]


def main(
    data: Annotated[Path, typer.Option(help="Folder with wikitext-2/.", exists=True)],
    layers: Annotated[int, typer.Option(min=1, help="How many of the 30 layers go.")] = 6,
    windows: Annotated[int, typer.Option(min=2, help="Calibration windows of 256 tokens.")] = 8,
    judged: Annotated[int, typer.Option(min=1, help="Test windows of 256 tokens.")] = 16,
) -> None:
    """Print a table of perplexities and one of architectures."""
    ways: dict[str, Remove] = {"sglp": _remove_with_sglp}
    if importlib.util.find_spec("optipfair") is None:
        print("optipfair is not installed and takes no part: pip install optipfair", file=sys.stderr)
    else:
        ways["optipfair"] = _remove_with_optipfair
    console = Console(width=120)
    console.print(_survivors(ways))
    console.print(_perplexities(data / "wikitext-2", layers, windows, judged, "optipfair" in ways))


def _perplexities(text: Path, count: int, windows: int, judged: int, with_optipfair: bool) -> Table:
    calibration = Calibration(str(text / "valid.txt"), windows, 256, 4)
    loaded = load_model(
        find_model().as_uri(), Options(calibration=Calibration(sequence_length=256)), RunContext(cache=CACHE)
    )
    measured = text_windows(Path(calibration.source), loaded.processor, windows, 256, 0)
    data = CalibrationData(measured, None, calibration.batch_size, 0, "")
    batches = data.calibration(loaded)
    analysis = measure(loaded, data, Options(method=Method(), calibration=calibration))
    target = Target("layers", count / len(loaded.stack))
    plan = choose_plan(
        WriteFinder(loaded, batches[0]), analysis, target, Options(method=Method(repair="none")), batches
    ).plan
    chosen = {"sglp": plan.removed_layers}
    if with_optipfair:
        from optipfair import analyze_layer_importance

        scores = analyze_layer_importance(loaded.model, [batch.inputs for batch in batches], show_progress=False)
        chosen["optipfair, by its scores"] = tuple(sorted(sorted(scores, key=scores.__getitem__)[:count]))
        chosen["optipfair, its default (last)"] = tuple(range(len(loaded.stack) - count, len(loaded.stack)))
    test = text_windows(text / "test.txt", loaded.processor, judged, 256, 0)
    judge = list(test.batches(loaded.task, loaded.processor, 4, 0))
    quality = evaluate(loaded, judge, {name: Variant(removed) for name, removed in chosen.items()})
    table = Table(
        "plan", "perplexity", "agreement", "KL", "removed layers",
        title=f"SmolLM2-135M-Instruct, {count} of {len(loaded.stack)} layers removed, no repair; WikiText-2 test",
    )  # fmt: skip
    for name, each in quality.items():
        removed = ", ".join(map(str, chosen.get(name, ())))
        table.add_row(name, f"{each.perplexity:.4g}", f"{each.agreement:.3f}", f"{each.kl:.3f}", removed)
    return table


def _survivors(ways: dict[str, Remove]) -> Table:
    table = Table(
        "architecture", *ways, title="reloaded by stock classes: logits of the dense model with layers bypassed"
    )
    survived = dict.fromkeys(ways, 0)
    for name in CASES:
        outcomes = {way: _outcome(name, remove) for way, remove in ways.items()}
        for way, outcome in outcomes.items():
            survived[way] += outcome == "survives"
        table.add_row(name, *outcomes.values())
    table.add_section()
    table.add_row("survive", *(f"{number} of {len(CASES)}" for number in survived.values()))
    return table


def _outcome(name: str, remove: Remove) -> str:
    """Whether a small model survives removing each of three pairs of its eight layers, or what went wrong first."""
    for removed in REMOVED:
        try:
            outcome = _round_trip(getattr(transformers, name), name, removed, remove)
        except Exception as error:
            outcome = f"{type(error).__name__}"
        if outcome != "survives":
            return f"{outcome} ({removed[0]} and {removed[1]} removed)"
    return "survives"


def _round_trip(stock: Any, name: str, removed: tuple[int, int], remove: Remove) -> str:
    torch.manual_seed(0)
    model = stock(stock.config_class(**CASES[name])).eval()
    if model.main_input_name == "pixel_values":
        probe = {"pixel_values": torch.randn(2, 3, 16, 16)}
    else:
        probe = {"input_ids": torch.randint(5, 99, (2, 20))}
    with bypassed(layers_of(model, find_stack(model)), removed):
        expected = probe_logits(model, probe)
    directory = Path(tempfile.mkdtemp())
    try:
        remove(model, removed).save_pretrained(directory)
        reloaded, info = stock.from_pretrained(directory, output_loading_info=True)
        if info["missing_keys"] or info["unexpected_keys"]:
            return "tensors missing or unexpected"
        logits = probe_logits(reloaded.eval(), probe)
    finally:
        shutil.rmtree(directory)
    return "survives" if difference(logits, expected) <= TOLERANCES[torch.float32] else "wrong logits, no error"


def _remove_with_sglp(model: Any, removed: Sequence[int]) -> Any:
    remove_layers(model, find_stack(model), removed)
    return model


def _remove_with_optipfair(model: Any, removed: Sequence[int]) -> Any:
    from optipfair import prune_model

    return prune_model(
        model, "DEPTH", layer_indices=list(removed), layer_selection_method="custom", show_progress=False
    )


if __name__ == "__main__":
    typer.run(main)
