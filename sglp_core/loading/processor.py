"""Load the tokenizer or image processor of a model."""

from pathlib import Path
from typing import Any

import transformers
from PIL import Image

from sglp_core.errors import ModelNotFound
from sglp_core.tasks import Task

# Files that come with a model and do not depend on its layers; artifacts contain them unchanged.
PROCESSOR_FILES = (
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "spiece.model",
    "sentencepiece*.model", "chat_template*", "preprocessor_config.json", "processor_config.json", "LICENSE*",
    "NOTICE*",
)  # fmt: skip


def image_shape(processor: Any) -> tuple[int, ...]:
    """(channels, height, width) of an image after the processor."""
    return tuple(processor(Image.new("RGB", (256, 256)), return_tensors="pt")["pixel_values"].shape[1:])


def processor_of(task: Task, directory: Path) -> Any:
    """The tokenizer or image processor in a model directory. Raises `ModelNotFound` where there is none."""
    if task != "image_classification":
        try:
            return transformers.AutoTokenizer.from_pretrained(directory)
        except Exception as error:
            raise ModelNotFound(
                f"the model directory has no tokenizer that transformers can read: {error!r}"
            ) from error
    try:
        return transformers.AutoImageProcessor.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            "the model directory has no image processor (preprocessor_config.json) that transformers can load, so "
            f"images cannot be resized and normalised: {error}"
        ) from error
