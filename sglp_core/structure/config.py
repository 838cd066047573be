"""Read the configuration of a model directory, and turn the errors of transformers into ours."""

from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.structure.timm_models import NEEDED, is_timm, make_loadable


def read_config(directory: Path, **options: Any) -> transformers.PretrainedConfig:
    """The configuration of a model directory; `options` go to `AutoConfig.from_pretrained`.

    Raises `UnsupportedArchitecture` where transformers does not know the model or rejects its values, and the errors of
    `timm_models.make_loadable`.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(directory, **options)
    except ImportError as error:
        # Only the configuration of a timm model needs an optional library, for the names of its classes.
        raise UnsupportedArchitecture(NEEDED) from error
    except (ValueError, KeyError) as error:
        raise UnsupportedArchitecture(
            f"transformers {transformers.__version__} does not know this model: looked for its model_type among the "
            f"architectures it contains ({error})"
        ) from error
    except StrictDataclassError as error:
        raise UnsupportedArchitecture(f"config.json has a value that its model type refuses: {error}") from error
    except (TypeError, ArithmeticError, AttributeError, RuntimeError) as error:
        # Some configuration classes use values without checking them.
        raise UnsupportedArchitecture(f"config.json has a value that its model type refuses: {error!r}") from error
    if not isinstance(config.dtype, torch.dtype | None):
        raise UnsupportedArchitecture(f"config.json names a dtype that torch does not have: {config.dtype}")
    if is_timm(config):
        make_loadable(config)
    return config
