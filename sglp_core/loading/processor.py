"""Load the tokenizer or image processor of a model."""

from pathlib import Path
from typing import Any

import transformers
from PIL import Image

from sglp_core.errors import ModelNotFound
from sglp_core.tasks import Task


def image_shape(processor: Any) -> tuple[int, ...]:
    """(channels, height, width) of an image after the processor."""
    return tuple(processor(Image.new("RGB", (256, 256)), return_tensors="pt")["pixel_values"].shape[1:])


def processor_of(task: Task, directory: Path) -> Any:
    """The tokenizer or image processor in a model directory. Raises `ModelNotFound` where there is none."""
    if task != "image_classification":
        try:
            return transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        except Exception as error:
            raise ModelNotFound(
                "the model directory has no tokenizer that transformers can read; where training has left none, copy "
                f"its files from the base model: {error!r}"
            ) from error
    try:
        return transformers.AutoImageProcessor.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            "the model directory has no image processor (preprocessor_config.json) that transformers can load, so "
            f"images cannot be resized and normalised: {error}"
        ) from error
