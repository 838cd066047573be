"""The versions of Python and the libraries that results depend on."""

import platform
from importlib.metadata import version

import numpy
import safetensors
import torch
import transformers
from transformers.utils import is_timm_available


def versions() -> dict[str, str]:
    """Version by library name; timm only where it is installed."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "safetensors": safetensors.__version__,
        "numpy": numpy.__version__,
        **({"timm": version("timm")} if is_timm_available() else {}),
    }
