"""A random six-layer ViT with its image processor, and coloured images for it: a whole image job in seconds."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

CLASSES = ("cat", "dog", "truck")
SIZE = 16


def write_tiny_vit(directory: Path) -> Path:
    """Save the model, whose classes are CLASSES, and its processor to `directory`."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=8,
        initializer_range=0.2,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: number for number, name in enumerate(CLASSES)},
    )
    ViTForImageClassification(config).save_pretrained(directory)
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(directory)
    return directory


def write_images(directory: Path, classes: tuple[str, ...] = CLASSES, each: int = 8) -> Path:
    """Save noisy images `class/number.png`, every class around a colour of its own."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (directory / name).mkdir(parents=True)
        for image in range(each):
            pixels = generator.integers(0, 128, (SIZE, SIZE, 3))
            pixels[..., number % 3] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(directory / name / f"{image}.png")
    return directory


def zipped(directory: Path, archive: Path, prefix: str = "") -> Path:
    """The files of a folder in a zip, below `prefix`."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(directory.rglob("*.png")):
            file.write(path, prefix + path.relative_to(directory).as_posix())
    return archive
