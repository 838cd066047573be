"""The paper's claim on its own ground: half of a ResNet's parameters and 40 % of its FLOPs removed, and then healed.

    pip install --no-deps torch-pruning
    python -m benchmarks.paper_claim --data ../shared/data --out claim

Every way to choose blocks is healed for several numbers of epochs, each a training with its whole schedule, and so are
the dense network and a narrower one. All start from the dense network after a training on the same images. Accuracy is
on the whole test set. Finished rows are in `claim/results.jsonl`, and a command that was stopped goes on behind them:
in the middle of a row, where blocks are removed. Several may run at once, each with other rows, once the dense network
is there.
"""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.progress import Progress as Bars
from rich.progress import TaskID

from benchmarks.cifar_models import write_model
from benchmarks.paper_claim_results import draw, print_results
from benchmarks.paper_claim_rows import BATCH, FewerBlocks, Ground, OnStep, Row, Whole, device, training_images
from benchmarks.plain_training import train
from benchmarks.results_file import ResultsFile
from sglp_core import Healing
from sglp_core.architectures import CifarResNetForImageClassification
from sglp_core.options import Augmentation, Optimizer, Precision

IMAGES = 50_000
# The two that choose nothing by the network come last.
ROWS = ["dense", "proposals", "grad_norm", "block_influence", "torch_pruning", "last_layers", "random"]
EPOCHS = [1, 3, 10]
SEEDS = [0]
# How the dense network is trained before.
TUNED = Healing(
    learning_rate=0.1,
    alpha=0.0,
    batch_size=BATCH,
    augmentation="crop_and_flip",
    precision="mixed",
    optimizer="sgd",
    weight_decay=5e-4,
)


def main(
    data: Annotated[Path, typer.Option(help="Folder with cifar10/ and cifar10-resnets/.", exists=True)],
    out: Annotated[Path, typer.Option(help="Folder of the results, and of the dense network that all start from.")],
    network: Annotated[str, typer.Option(help="A file of cifar10-resnets/, without its ending.")] = "resnet56-jpeg",
    tuned: Annotated[int, typer.Option(min=0, help="Epochs that the dense network is trained first.")] = 30,
    parameters: Annotated[float, typer.Option(help="The share of the parameters to remove, at least.")] = 0.5,
    flops: Annotated[float, typer.Option(help="The share of the FLOPs to remove, at least.")] = 0.4,
    row: Annotated[list[str], typer.Option(help="What chooses the blocks; may be repeated.")] = ROWS,
    epochs: Annotated[list[int], typer.Option(min=1, help="Epochs of healing; may be repeated.")] = EPOCHS,
    seed: Annotated[list[int], typer.Option(help="Draws images and random blocks; may be repeated.")] = SEEDS,
    optimizer: Annotated[Optimizer, typer.Option(help="The optimiser.")] = "sgd",
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of the optimiser.")] = 5e-4,
    alpha: Annotated[float, typer.Option(help="The weight of the dense network's answers; the rest: labels.")] = 0.9,
    temperature: Annotated[float, typer.Option(help="What softens the dense network's answers.")] = 4.0,
    augmentation: Annotated[Augmentation, typer.Option(help="How training images are changed.")] = "crop_and_flip",
    precision: Annotated[Precision, typer.Option(help="How a training step is computed.")] = "mixed",
    images: Annotated[int, typer.Option(help="Training images that there are.")] = IMAGES,
) -> None:
    """Compute the rows that are missing, and print and draw all."""
    results = ResultsFile(out / "results.jsonl")
    healing = Healing(
        learning_rate=rate,
        alpha=alpha,
        trained="all",
        batch_size=BATCH,
        augmentation=augmentation,
        precision=precision,
        optimizer=optimizer,
        weight_decay=weight_decay,
        temperature=temperature,
    )
    with Bars(transient=True) as bars:
        ground = Ground(data, images, _dense(data, out, network, tuned, images, bars), out / "cache")
        for drawn in seed:
            for name in row:
                smaller: Row | None = None
                for count in epochs:
                    settings = {
                        "network": network,
                        "tuned": tuned,
                        "parameters": parameters,
                        "flops": flops,
                        "row": name,
                        "seed": drawn,
                        "images": images,
                        **asdict(replace(healing, epochs=count)),
                    }
                    if results.find(settings) is not None:
                        continue
                    bar = bars.add_task(f"{name}, {count} epochs", total=None)
                    smaller = smaller or _row(name, ground, parameters, flops, drawn)
                    begun = time.monotonic()
                    found = smaller.healed(replace(healing, epochs=count), _shown_by(bars, bar))
                    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
                    results.add(settings, {**found, "seconds": round(time.monotonic() - begun), "device": hardware})
                    bars.remove_task(bar)
    print_results(results, network)
    draw(results, network, out / "accuracy.svg")


def _shown_by(bars: Bars, bar: TaskID) -> OnStep:
    return lambda step, steps: bars.update(bar, completed=step, total=steps)


def _row(name: str, ground: Ground, parameters: float, flops: float, seed: int) -> Row:
    if name in {"dense", "torch_pruning"}:
        return Whole(ground, flops if name == "torch_pruning" else 0.0, seed)
    return FewerBlocks(ground, name, parameters, flops, seed)


def _dense(data: Path, out: Path, network: str, tuned: int, images: int, bars: Bars) -> Path:
    """The dense network that all start from, trained on the labels; made once."""
    folder = out / f"{network}-{tuned}-epochs"
    if folder.exists():
        return folder
    written = write_model(data / f"cifar10-resnets/{network}.safetensors", out / f"{network}.unfinished")
    model = CifarResNetForImageClassification.from_pretrained(written).to(device())
    if tuned:
        steps = replace(TUNED, epochs=tuned).steps_on(images, BATCH)
        bar = bars.add_task("the dense network", total=steps)
        batches = training_images(data, images, 0)
        train(
            model,
            model,
            batches,
            "image_classification",
            TUNED,
            steps,
            0,
            lambda step: bars.update(bar, completed=step),
        )
        bars.remove_task(bar)
    model.cpu().save_pretrained(written)
    written.rename(folder)
    return folder


if __name__ == "__main__":
    typer.run(main)
