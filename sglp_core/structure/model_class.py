"""Find the class that a configuration names, and build untrained models of it to inspect their structure."""

import torch
import transformers

from sglp_core.architectures import IMAGE_CLASSIFIERS
from sglp_core.errors import UnsupportedArchitecture, as_unsupported


def model_class(config: transformers.PretrainedConfig) -> type[transformers.PreTrainedModel]:
    """The class that the configuration names, of transformers or of `sglp_core.architectures`.

    Where it names none, that of `only_class`. Raises `UnsupportedArchitecture` where there is none.
    """
    names = config.architectures or [only_class(config)]
    ours = {each.__name__: each for each in IMAGE_CLASSIFIERS.values()}
    for name in names:
        candidate = (getattr(transformers, name, None) or ours.get(name)) if isinstance(name, str) else None
        if isinstance(candidate, type) and issubclass(candidate, transformers.PreTrainedModel):
            return candidate
    raise UnsupportedArchitecture(
        f"config.json names the architectures {names}, but transformers {transformers.__version__} has no such class; "
        "looked for a class of that name in the transformers package (custom code is never run)"
    )


def only_class(config: transformers.PretrainedConfig) -> str:
    """The class of a causal language model of this type, for which transformers has no other language model.

    Raises `UnsupportedArchitecture` where its type says too little.
    """
    causal_class = transformers.AutoModelForCausalLM._model_mapping.get(type(config), None)
    if causal_class is None or type(config) in transformers.AutoModelForMaskedLM._model_mapping:
        raise UnsupportedArchitecture(
            f"config.json names no architecture, and its model_type {config.model_type} does not say which class it is "
            "for: name the class in `architectures`"
        )
    return str(causal_class.__name__)


def meta_model(config: transformers.PretrainedConfig) -> transformers.PreTrainedModel:
    """The model on the meta device, which takes no memory for weights.

    Raises `UnsupportedArchitecture` where it cannot be built.
    """
    return untrained_model(config, "meta")


def untrained_model(
    config: transformers.PretrainedConfig,
    device: str,
    attention: str | None = "eager",
    dtype: torch.dtype | None = None,
) -> transformers.PreTrainedModel:
    """The model with random weights. Raises `UnsupportedArchitecture` where it cannot be built.

    Eager attention and batched experts, because FLOP counters see all their operations, and their shapes do not depend
    on values. With `attention` None it has the attention of a loaded model.
    """
    stock = model_class(config)
    with as_unsupported("the model cannot be built from its config.json"), torch.device(device):
        model = stock._from_config(
            config, attn_implementation=attention, dtype=dtype, experts_implementation="batched_mm"
        )
        return model.requires_grad_(False).eval()
