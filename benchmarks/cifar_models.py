"""Public CIFAR-10 ResNets as model directories that `sglp compress` takes.

    python -m benchmarks.cifar_models --data ../shared/data --out models

Writes `models/resnet20` and so on: weights, class names, and an image processor with the ImageNet mean and standard
deviation these networks were trained with.
"""

import re
import shutil
from pathlib import Path
from typing import Annotated

import typer
from safetensors.torch import load_file
from transformers import ViTImageProcessor

from sglp_core.architectures import CifarResNetConfig, CifarResNetForImageClassification

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def main(
    data: Annotated[Path, typer.Option(help="Folder with cifar10-resnets/.", exists=True)],
    out: Annotated[Path, typer.Option(help="Where the model directories go.")],
) -> None:
    """Write one model directory for every checkpoint."""
    for weights in sorted((data / "cifar10-resnets").glob("*.safetensors")):
        print(write_model(weights, out / weights.stem))


def write_model(weights: Path, directory: Path) -> Path:
    """Turn a checkpoint with the names of `CifarResNetForImageClassification` into a model directory."""
    tensors = load_file(weights)
    stages = [re.match(r"layer(\d+)\.(\d+)\.", name) for name in tensors]
    blocks = {(int(match[1]), int(match[2])) for match in stages if match}
    config = CifarResNetConfig(
        depths=[sum(stage == number for stage, _ in blocks) for number in (1, 2, 3)],
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    model = CifarResNetForImageClassification(config)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    # How many batches were seen is only counted for averages that these networks do not use.
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    model.save_pretrained(directory)
    ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=list(IMAGENET_MEAN), image_std=list(IMAGENET_STD)
    ).save_pretrained(directory)
    shutil.copyfile(weights.parent / "LICENSE", directory / "LICENSE")
    (directory / "README.md").write_text("---\nlicense: bsd-2-clause\n---\n")
    return directory


if __name__ == "__main__":
    typer.run(main)
