"""CIFAR-10 as tensors, accuracy on it, and a short training run, for the benchmarks on images."""

import io
import random
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.cifar_models import CLASSES, IMAGENET_MEAN, IMAGENET_STD

PADDING = 4
JUDGED_AT_ONCE = 250


def read_cifar(archive: Path, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images `[N, 3, 32, 32]`, normalised as the public networks want them, and labels `[N]`.

    At most `count` of them, drawn from the seed.
    """
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        random.Random(seed).shuffle(names)
        names = names[:count]
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB")) for name in names])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std, torch.tensor([CLASSES.index(PurePosixPath(name).parent.name) for name in names])


@torch.no_grad()
def accuracy(model: Any, images: Tensor, labels: Tensor) -> float:
    model.eval()
    parts = [model(pixel_values=part).logits.argmax(-1) for part in images.split(JUDGED_AT_ONCE)]
    return float((torch.cat(parts) == labels).double().mean())


def train(
    model: Any,
    images: Tensor,
    labels: Tensor,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_step: Callable[[int], None],
) -> None:
    """SGD with momentum 0.9 and one learning-rate cycle over random crops and flips; batch norms train as well."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
    for step in range(steps):
        model.train()
        chosen = torch.randint(len(images), (batch_size,), generator=generator)
        logits = model(pixel_values=_augmented(images[chosen], generator)).logits
        nn.functional.cross_entropy(logits, labels[chosen]).backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        on_step(step + 1)


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    flipped = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flipped[:, None, None, None], images.flip(3), images)
    padded = nn.functional.pad(images, (PADDING,) * 4)
    corners = torch.randint(2 * PADDING + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + 32, x : x + 32] for image, (y, x) in zip(padded, corners, strict=True)])
