"""Check that the model has an embedding for every token of a text, before anything is computed of it."""

from typing import Any

import torch
from torch import Tensor, nn

from sglp_core.errors import BadCalibration

ROWS_AT_ONCE = 4096
NAMED_TOKENS = 5


def require_embedded(ids: Tensor, model: Any, tokenizer: Any) -> None:
    """Raise `BadCalibration` where some token ids `[N, T]`, or the mask token, are beyond the model's embeddings.

    So it is where tokens were added to the tokenizer and the embeddings were not resized.
    """
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        return
    rows = embedding.num_embeddings
    parts = [part[part >= rows].unique() for part in ids.split(ROWS_AT_ONCE)]
    mask = tokenizer.mask_token_id
    unknown = torch.cat([*parts, torch.tensor([mask] if mask is not None and mask >= rows else [], dtype=torch.long)])
    if len(unknown):
        numbers = unknown.unique()[:NAMED_TOKENS].tolist()
        names = ", ".join(f"{tokenizer.convert_ids_to_tokens(number)!r} ({number})" for number in numbers)
        raise BadCalibration(
            f"the model has no embedding for the tokens {names}: its embeddings have {rows} rows, the tokenizer has "
            f"{len(tokenizer)} tokens; resize the embeddings, or give the tokenizer that the model was trained with"
        )
