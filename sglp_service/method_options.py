"""The options that `sglp compress`, `sweep` and `estimate` share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sglp_core import options
from sglp_core.repair import REPAIRS

if TYPE_CHECKING:
    RepairName = str
else:
    # The rows of a table are no type that mypy can read; Typer shows and checks them.
    RepairName = Literal[("none", *REPAIRS, "auto")]

Model = Annotated[str, typer.Argument(help="A model folder, a GGUF file, or hf://org/name.")]
Out = Annotated[Path, typer.Option(help="A new folder for the results.")]
Of = Annotated[options.TargetKind, typer.Option(help="What the fraction is of.")]
Importance = Annotated[str, typer.Option(help="`proposals`, or one criterion inside the segments.")]
Repair = Annotated[
    RepairName, typer.Option(help="How the remaining weights make up for the removed layers, without training.")
]
CalibrationSource = Annotated[
    str,
    typer.Option(
        help="`self` (text that the model writes); a .txt, .jsonl or .parquet file; for images also a folder or a .zip."
    ),
]
EvaluationSource = Annotated[str, typer.Option(help="`held_out`, or a source as for --calibration.")]
Samples = Annotated[int, typer.Option(min=1, help="Number of calibration samples.")]
SequenceLength = Annotated[int, typer.Option(min=8, help="Tokens of a sample.")]
EvaluationSamples = Annotated[int, typer.Option(min=1, help="Number of evaluation samples.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn at random.")]
Memory = Annotated[
    options.Memory,
    typer.Option(help="Load the model whole or one layer at a time; `auto`: whole where that leaves room to work."),
]
