"""Find the longest input of models with a table of position embeddings; other models have no such limit."""

import re
from typing import Any

from torch import nn

from sglp_core.errors import BadCalibration
from sglp_core.structure.model_class import meta_model
from sglp_core.structure.module_lists import other_towers

TABLE = re.compile(r"(^|[._])(wpe|embed_positions|position_embeddings?)$")


def require_length(config: Any, sequence_length: int) -> None:
    """Raise `BadCalibration` where the model has fewer positions than `sequence_length` tokens."""
    most = max_positions(config)
    if most is not None and sequence_length > most:
        raise BadCalibration(
            f"calibration.sequence_length is {sequence_length}, but the model has only {most} positions; give "
            "a smaller one"
        )


def max_positions(config: Any) -> int | None:
    """The number of tokens for which the model has position embeddings, or None without a table of them.

    RoBERTa and models like it number positions from after the id of the padding token, so they have fewer than rows.
    """
    configured = getattr(config.get_text_config(), "max_position_embeddings", None)
    model = meta_model(config)
    elsewhere = other_towers(model)
    lengths = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and TABLE.search(name) and not name.startswith(elsewhere)
    ]
    return min([*lengths, *([configured] if isinstance(configured, int) else [])]) if lengths else None
