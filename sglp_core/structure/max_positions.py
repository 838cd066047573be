"""How many tokens a model with a table of positions can read at once; others have no such end."""

import re
from typing import Any

from torch import nn

from sglp_core.errors import BadCalibration
from sglp_core.structure.model_class import meta_model

TABLE = re.compile(r"(^|[._])(wpe|embed_positions|position_embeddings?)$")


def require_length(config: Any, sequence_length: int) -> None:
    """Raises `BadCalibration` where windows of so many tokens are longer than the table."""
    most = most_positions(config)
    if most is not None and sequence_length > most:
        raise BadCalibration(
            f"calibration.sequence_length is {sequence_length}, and the model has {most} positions; ask for fewer"
        )


def most_positions(config: Any) -> int | None:
    """The length of the table of positions, or None without one.

    RoBERTa and its kin begin to count behind the number of the padding token.
    """
    said = getattr(config.get_text_config(), "max_position_embeddings", None)
    lengths = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in meta_model(config).named_modules()
        if isinstance(module, nn.Embedding) and TABLE.search(name)
    ]
    return min([*lengths, *([said] if isinstance(said, int) else [])]) if lengths else None
