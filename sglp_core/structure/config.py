"""Read the configuration of a model directory, and turn the errors of transformers into ours."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from sglp_core.errors import UnsupportedArchitecture
from sglp_core.structure.timm_models import NEEDED, is_timm, make_loadable

# The ways to compute attention that PyTorch alone has; None is the best one that a class has.
EVERYWHERE = (None, "eager", "sdpa")


def read_config(directory: Path, **options: Any) -> transformers.PretrainedConfig:
    """The configuration of a model directory; `options` go to `AutoConfig.from_pretrained`.

    It names no code of the model's own, and no way to compute attention that not every machine has.

    Raises `UnsupportedArchitecture` where transformers does not know the model or rejects its values, and the errors of
    `timm_models.make_loadable`.
    """
    try:
        config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False, **options)
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
    vars(config).pop("auto_map", None)
    if any(each._attn_implementation not in EVERYWHERE for each in _with_parts(config)):
        config._attn_implementation = None
    if is_timm(config):
        make_loadable(config)
    return config


def _with_parts(config: transformers.PretrainedConfig) -> Iterator[transformers.PretrainedConfig]:
    yield config
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if isinstance(part, transformers.PretrainedConfig):
            yield from _with_parts(part)
