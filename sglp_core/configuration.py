"""Read the configuration of a model directory."""

from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError

from sglp_core.errors import UnsupportedArchitecture


def read_config(directory: Path, **options: Any) -> transformers.PretrainedConfig:
    """The configuration of a model directory; raises `UnsupportedArchitecture` for one transformers does not know."""
    try:
        return transformers.AutoConfig.from_pretrained(directory, **options)
    except (ValueError, KeyError) as error:
        raise UnsupportedArchitecture(
            f"transformers {transformers.__version__} does not know this model: looked for its model_type among the "
            f"architectures it contains ({error})"
        ) from error
    except StrictDataclassError as error:
        raise UnsupportedArchitecture(f"config.json has a value that its model cannot have: {error}") from error
