"""Read a user's images for an image classifier: preprocessed by the model's own processor, each with its class."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sglp_core.checkpoints.model_folder import local_path
from sglp_core.data.image_files import ImageFile, read_image_files
from sglp_core.errors import BadCalibration
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.logits import logits_of_one
from sglp_core.tasks import Batch, Task

# More than photographs have; a small file can claim far more.
MAX_PIXELS = 100_000_000
PROBE_IMAGES = 2
LABELLED_AT_ONCE = 16


@dataclass(frozen=True)
class Images:
    """Preprocessed images `[N, C, H, W]` in the model's dtype with their classes `[N]`.

    `noun` says in reports where the classes come from.
    """

    pixel_values: Tensor
    labels: Tensor
    noun: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.pixel_values.float().numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()

    @property
    def probe(self) -> dict[str, Tensor]:
        """Two images for comparing logits."""
        return {"pixel_values": self.pixel_values[:PROBE_IMAGES]}

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, first: int) -> tuple["Images", "Images"]:
        return (
            Images(self.pixel_values[:first], self.labels[:first], self.noun),
            Images(self.pixel_values[first:], self.labels[first:], self.noun),
        )

    def batches(self, _task: Task, _processor: Any, batch_size: int, _seed: int) -> Iterator[Batch]:
        for pixels, labels in zip(self.pixel_values.split(batch_size), self.labels.split(batch_size), strict=True):
            yield Batch({"pixel_values": pixels}, labels)


def read_images(
    source: str, layered: LayeredModel, processor: Any, count: int, seed: int, roots: Sequence[Path] | None = None
) -> Images:
    """Up to `count` images of a user's folder, zip or Parquet file, in an order drawn at random with the seed.

    Class names are looked up in the model's `label2id`. Where it has none of them, and the number of classes is the
    same, they are numbered in sorted order. Images without a label get the dense model's prediction as label, so that
    accuracy on them is agreement with the dense model. Raises `BadCalibration`.
    """
    model = layered.model
    files = read_image_files(local_path(source, roots), count, seed, roots)
    if not files.chosen:
        raise BadCalibration(f"{Path(source).name} holds no images")
    pixel_values = torch.cat([_pixels(file, processor).to(model.dtype) for file in files.chosen])
    if files.chosen[0].label is None:
        return Images(pixel_values, _predicted(layered, pixel_values), "images labelled by the dense model itself")
    numbers, noun = _numbers(files.class_names, model.config)
    labels = [file.label if isinstance(file.label, int) else numbers[str(file.label)] for file in files.chosen]
    wrong = sorted({label for label in labels if not 0 <= label < model.config.num_labels})
    if wrong:
        raise BadCalibration(f"the model has {model.config.num_labels} classes, the images have labels {wrong[:5]}")
    return Images(pixel_values, torch.tensor(labels), noun)


def _pixels(file: ImageFile, processor: Any) -> Tensor:
    try:
        with Image.open(io.BytesIO(file.content)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BadCalibration(f"{file.name} has {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}")
            pixels: Tensor = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadCalibration(f"{file.name} cannot be read as an image: {error}") from error
    return pixels


def _numbers(class_names: Sequence[str], config: Any) -> tuple[dict[str, int], str]:
    """The number of each class name, and the noun of images whose classes were numbered that way."""
    known = {_folded(name): number for name, number in config.label2id.items()}
    unknown = [name for name in class_names if _folded(name) not in known]
    if not unknown:
        return {name: known[_folded(name)] for name in class_names}, "images with their classes by name"
    if len(unknown) < len(class_names):
        raise BadCalibration(f"the model's label2id has no class named {', '.join(unknown[:5])}")
    if len(class_names) != config.num_labels:
        raise BadCalibration(
            f"the images have {len(class_names)} classes ({', '.join(class_names[:5])} …) whose names the model does "
            f"not know, and it has {config.num_labels}; name the folders as in its label2id, or put all images in one "
            "folder to use the model's own predictions as labels"
        )
    return {
        name: number for number, name in enumerate(sorted(class_names))
    }, "images with their classes numbered in sorted order"


def _folded(name: str) -> str:
    return name.casefold().replace("_", " ")


@torch.no_grad()
def _predicted(model: LayeredModel, pixel_values: Tensor) -> Tensor:
    batches = Batch({"pixel_values": pixel_values}, torch.zeros(len(pixel_values))).split(LABELLED_AT_ONCE)
    return torch.cat([logits.argmax(-1).cpu() for logits in logits_of_one(model, list(batches))])
