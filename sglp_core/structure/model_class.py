"""The stock class of a configuration, and models of it that were never trained: built to be looked at."""

import torch
import transformers

from sglp_core.architectures import IMAGE_CLASSIFIERS
from sglp_core.errors import UnsupportedArchitecture, as_unsupported


def model_class(config: transformers.PretrainedConfig) -> type[transformers.PreTrainedModel]:
    """The class that the configuration names, of transformers or of `sglp_core.architectures`.

    Raises `UnsupportedArchitecture` where there is none.
    """
    names = config.architectures or []
    ours = {found.__name__: found for found in IMAGE_CLASSIFIERS.values()}
    for name in names:
        found = (getattr(transformers, name, None) or ours.get(name)) if isinstance(name, str) else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    raise UnsupportedArchitecture(
        f"config.json names the architectures {names}, and transformers {transformers.__version__} has no such class; "
        "looked for a class of that name in the transformers package (custom code is never run)"
    )


def meta_model(config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """The stock model without memory for its weights. Raises `UnsupportedArchitecture` where it cannot be built."""
    return untrained(config, "meta")


def untrained(
    config: transformers.PretrainedConfig,
    device: str,
    attention: str | None = "eager",
    dtype: torch.dtype | None = None,
) -> transformers.PreTrainedModel:
    """The stock model with weights that mean nothing. Raises `UnsupportedArchitecture` where it cannot be built.

    Eager attention and batched experts: every counter sees their FLOPs, and they need no data to know their shapes.
    With None the attention is the one that a loaded model has.
    """
    stock = model_class(config)
    with as_unsupported("the model cannot be built from its config.json"), torch.device(device):
        model = stock._from_config(
            config, attn_implementation=attention, dtype=dtype, experts_implementation="batched_mm"
        )
        return model.requires_grad_(False).eval()
