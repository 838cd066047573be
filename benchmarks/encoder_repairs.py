"""How much of the quality repairs restore on a trained post-norm encoder, for some sets of removed layers.

    python -m benchmarks.encoder_repairs

The encoder is the BERT of reaction SMILES that the package `rxnfp` ships (installed with `--no-deps`).
"""

import importlib.util
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table

from sglp_core.data.calibration_data import prepare
from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.variant import Variant
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Calibration, Evaluation, Options
from sglp_core.repair.repair import repair
from sglp_core.run_context import RunContext

KINDS = ("compensate", "least_squares", "refit", "auto")
SETS = ["4,5", "3,4,5,6", "2,5,8"]


def main(
    removed: Annotated[list[str], typer.Option(help="Layers, by commas; may be repeated.")] = SETS,
    windows: Annotated[int, typer.Option(min=4, help="Calibration windows of 128 tokens.")] = 48,
    judged: Annotated[int, typer.Option(min=1, help="Held-out windows of 128 tokens.")] = 24,
    seed: Annotated[int, typer.Option(help="Draws what the model writes.")] = 0,
) -> None:
    """Print a row for every set of layers and repair."""
    table = Table("removed", "repair", "perplexity", "agreement", "KL")
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        loaded = load_model(
            str(convert_rxnfp(Path(name) / "bert")),
            Options(calibration=Calibration(sequence_length=128)),
            RunContext(cache=cache),
        )
        calibration = Calibration("self", windows, 128, 8, seed)
        data = prepare(loaded, calibration, Evaluation(samples=judged), RunContext(cache=cache))
        for each in removed:
            layers = tuple(int(number) for number in each.split(","))
            changes_by_kind = {kind: repair(loaded, data.calibration(loaded), layers, kind).changes for kind in KINDS}
            quality = evaluate(
                loaded,
                data.evaluation(loaded),
                {"none": Variant(layers)}
                | {kind: Variant(layers, changes) for kind, changes in changes_by_kind.items()},
            )
            for kind, figures in quality.items():
                repaired = kind if kind in {"dense", "none"} or changes_by_kind[kind] else f"{kind} (nothing accepted)"
                numbers = (f"{figures.perplexity:.3f}", f"{figures.agreement:.3f}", f"{figures.kl:.3f}")
                table.add_row(each, repaired, *numbers)
    Console(width=100).print(table)


def convert_rxnfp(directory: Path) -> Path:
    """The shipped weights, a pickle, as a safetensors directory."""
    spec = importlib.util.find_spec("rxnfp")
    if spec is None or spec.origin is None:
        raise typer.BadParameter("rxnfp is not installed: pip install --no-deps rxnfp==0.1.0")
    source = Path(spec.origin).parent / "models/transformers/bert_pretrained"
    model = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(source))
    model.load_state_dict(torch.load(source / "pytorch_model.bin", weights_only=True, map_location="cpu"), strict=False)
    model.tie_weights()
    model.save_pretrained(directory)
    transformers.BertTokenizer(str(source / "vocab.txt")).save_pretrained(directory)
    return directory


if __name__ == "__main__":
    typer.run(main)
