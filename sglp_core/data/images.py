"""Read a user's images for an image classifier: preprocessed by the model's own processor, each with its class."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sglp_core.checkpoints.model_folder import local_path
from sglp_core.data.image_files import ImageFile, ImageFiles, read_image_files
from sglp_core.data.predicted_labels import predicted_labels
from sglp_core.data.samples import digest_of
from sglp_core.errors import BadCalibration
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.mapped_tensor import mapped_tensor
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.tasks import Batch, Task

# More than photographs have; a small file can claim far more.
MAX_PIXELS = 100_000_000
PROBE_IMAGES = 2


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
        return digest_of(self.pixel_values, self.labels)

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
        return self._whole.split(batch_size)

    def to_train_on(self, _loaded: LoadedModel, _batch_size: int, _seed: int) -> Batch:
        return self._whole

    @property
    def _whole(self) -> Batch:
        return Batch({"pixel_values": self.pixel_values}, self.labels)


def read_images(
    source: str, layered: LayeredModel, processor: Any, count: int, seed: int, roots: Sequence[Path] | None = None
) -> Images:
    """Up to `count` images of a user's folder, zip or Parquet file, in an order drawn at random with the seed.

    Class names are looked up in the model's `label2id`. Where it has none of them, and the number of classes is the
    same, they are numbered in sorted order. Images without a label get the dense model's prediction as label, so that
    accuracy on them is agreement with the dense model. Raises `BadCalibration` and `InsufficientStorage`.
    """
    files = read_image_files(local_path(source, roots), count, seed, roots)
    if not files.labels:
        raise BadCalibration(f"{Path(source).name} holds no images")
    if files.labels[0] is None:
        pixel_values = _pixel_values(source, files, layered, processor)
        labels = predicted_labels(layered, {"pixel_values": pixel_values})
        return Images(pixel_values, labels, "images labelled by the dense model itself")
    config = layered.model.config
    by_name, noun = _numbers(files.class_names, config)
    numbers = torch.tensor([label if isinstance(label, int) else by_name[str(label)] for label in files.labels])
    wrong = sorted({label for label in numbers.tolist() if not 0 <= label < config.num_labels})
    if wrong:
        raise BadCalibration(f"the model has {config.num_labels} classes, the images have labels {wrong[:5]}")
    return Images(_pixel_values(source, files, layered, processor), numbers, noun)


def _pixel_values(source: str, files: ImageFiles, layered: LayeredModel, processor: Any) -> Tensor:
    """The pixels of all images in a mapped file; each image is read when it is decoded."""
    pixel_values: Tensor | None = None
    count = 0
    for place, file in files.read():
        pixels = _pixels(file, processor)
        if pixel_values is None:
            shape = (len(files.labels), *pixels.shape[1:])
            pixel_values = mapped_tensor(
                shape, layered.model.dtype, layered.scratch, f"the images of {Path(source).name}"
            )
        if pixels.shape[1:] != pixel_values.shape[1:]:
            raise BadCalibration(
                f"the model's processor makes {tuple(pixels.shape[1:])} of {file.name}, and "
                f"{tuple(pixel_values.shape[1:])} of another image; give images of one size"
            )
        pixel_values[place] = pixels[0]
        count += 1
    if pixel_values is None or count < len(files.labels):
        raise BadCalibration(f"{Path(source).name} was changed while it was read")
    return pixel_values


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
