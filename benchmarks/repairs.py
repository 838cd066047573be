"""How much of the quality repairs restore on a real language model, for some sets of removed layers, on held-out text.

python -m benchmarks.repairs --data ../shared/data
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from sglp_core.data.token_windows import batches, text_windows
from sglp_core.evaluation.quality import Quality, evaluate
from sglp_core.execution.variant import Variant
from sglp_core.healing.heal import Training, heal
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Calibration, Healing, Options
from sglp_core.repair.repair import Repaired, repair
from sglp_core.run_context import RunContext
from sglp_core.tasks import Batch
from sglp_service.demo import find_model

CACHE = Path("~/.cache/sglp").expanduser()


def repaired_quality(
    loaded: LoadedModel,
    calibration: Sequence[Batch],
    judged: Sequence[Batch],
    sets: Mapping[str, tuple[int, ...]],
    kinds: Sequence[Any] = ("compensate", "least_squares", "auto"),
) -> tuple[dict[str, dict[str, Quality]], dict[str, dict[str, Repaired]]]:
    """For each named set of removed layers, quality by kind of repair (`none` too) on `judged`; and the repairs."""
    quality: dict[str, dict[str, Quality]] = {}
    repairs: dict[str, dict[str, Repaired]] = {}
    for name, removed in sets.items():
        repairs[name] = {kind: repair(loaded, calibration, removed, kind) for kind in kinds}
        quality[name] = evaluate(
            loaded,
            judged,
            {"none": Variant(removed)}
            | {kind: Variant(removed, repaired.changes) for kind, repaired in repairs[name].items()},
        )
    return quality, repairs


def main(
    data: Annotated[Path, typer.Option(help="Folder with wikitext-2/.", exists=True)],
    removed: Annotated[list[str], typer.Option(help="Layers to remove, as 3,4,5; may be repeated.")] = [  # noqa: B006
        "12,13,14,15,16,17",
        "10,11,12,13,14,15",
        "4,8,12,16,20,24",
    ],
    kinds: Annotated[list[str], typer.Option(help="Kinds of repair.")] = ["compensate", "least_squares", "auto"],  # noqa: B006
    windows: Annotated[
        int, typer.Option(min=2, help="Calibration windows of 256 tokens, a quarter of them judges.")
    ] = 32,
    judged: Annotated[int, typer.Option(min=1, help="Test windows of 256 tokens.")] = 8,
    seed: Annotated[int, typer.Option(help="Draws the calibration windows.")] = 0,
    bfloat16: Annotated[bool, typer.Option(help="Round the model to bfloat16 first, which is faster.")] = False,
    heal_steps: Annotated[int, typer.Option(min=0, help="Also heal after the last kind of repair.")] = 0,
) -> None:
    """Print quality without and with each kind of repair, and what became of each attempt."""
    console = Console(width=140)
    loaded = load_model(
        find_model().as_uri(), Options(calibration=Calibration(sequence_length=256)), RunContext(cache=CACHE)
    )
    if bfloat16:
        loaded.model.bfloat16()
    calibration_windows = text_windows(data / "wikitext-2/valid.txt", loaded.processor, windows, 256, seed)
    test = text_windows(data / "wikitext-2/test.txt", loaded.processor, judged, 256, 0)
    calibration = list(batches(calibration_windows, loaded.task, loaded.processor, 4, seed))
    judge = list(batches(test, loaded.task, loaded.processor, 4, 0))
    for text in removed:
        begun = time.monotonic()
        sets = {text: tuple(int(number) for number in text.split(","))}
        quality, repairs = repaired_quality(loaded, calibration, judge, sets, kinds)
        if heal_steps:
            quality[text]["and healed"] = _healed(
                loaded, calibration, judge, sets[text], repairs[text][kinds[-1]], heal_steps, console
            )
        table = Table("repair", "perplexity", "agreement", "KL", title=f"layers {text} removed")
        for kind, each in quality[text].items():
            table.add_row(kind, f"{each.perplexity:.4g}", f"{each.agreement:.3f}", f"{each.kl:.3f}")
        console.print(table)
        attempts = Table("cut", "repair", "alpha", "held-out error of the stream", "")
        for kind, repaired in repairs[text].items():
            for a in repaired.attempts:
                figures = ["", ""]
                if a.error_before is not None and a.error_after is not None:
                    figures = [f"{a.alpha:.4f}" if a.alpha else "", f"{a.error_before:.3f} → {a.error_after:.3f}"]
                verdict = "accepted" if a.accepted else a.reason
                attempts.add_row("–".join(map(str, a.cut.first_and_last)), f"{a.repair} ({kind})", *figures, verdict)
        console.print(attempts, f"{time.monotonic() - begun:.0f} s\n")


def _healed(
    loaded: LoadedModel,
    calibration: Sequence[Batch],
    judged: Sequence[Batch],
    removed: tuple[int, ...],
    repaired: Repaired,
    steps: int,
    console: Console,
) -> Quality:
    begun = time.monotonic()
    healed = heal(loaded, calibration, Variant(removed, repaired.changes), Training(Healing(steps)))
    curve = ", ".join(f"{point.step}: {point.loss:.3f} / {point.kl:.3f}" for point in healed.curve)
    console.print(f"healing, {time.monotonic() - begun:.0f} s; held-out loss / KL by step: {curve}")
    return evaluate(loaded, judged, {"healed": Variant(removed, healed.changes)})["healed"]


if __name__ == "__main__":
    typer.run(main)
