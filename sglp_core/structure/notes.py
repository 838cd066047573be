"""What was decided when a model was opened, where its files could be meant in another way; reports say it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import transformers

from sglp_core.structure.config import EVERYWHERE
from sglp_core.structure.config_renumbering import prediction_layers
from sglp_core.structure.model_class import model_class

NoteCode = Literal[
    "custom_code_ignored", "architecture_derived", "attention_chosen", "prediction_layers_off", "layers_beyond_ignored"
]


@dataclass(frozen=True)
class Note:
    """One decision."""

    code: NoteCode
    """Which decision it is, for programs."""
    message: str
    """What was decided, and from what."""


def notes_on(stated: Mapping[str, Any], config: transformers.PretrainedConfig) -> Iterator[Note]:
    """The notes on a configuration; `stated` is the content of config.json that it was read from."""
    stock = model_class(config).__name__
    if "auto_map" in stated:
        yield Note(
            "custom_code_ignored",
            f"config.json has an auto_map to custom code; it is ignored, and transformers' {stock} is used",
        )
    if not stated.get("architectures") and "architecture" not in stated:
        yield Note(
            "architecture_derived",
            f"config.json names no architecture; {stock} is the only language model that transformers has of the type "
            f"{config.model_type}",
        )
    attention = [each for each in _stated_attention(stated) if each not in EVERYWHERE]
    if attention:
        names = ", ".join(dict.fromkeys(map(str, attention)))
        yield Note("attention_chosen", f"config.json asks for the attention {names}; what PyTorch has is used instead")
    text = config.get_text_config()
    for name, count in prediction_layers(text).items():
        yield Note(
            "prediction_layers_off",
            f"config.json promises {count} further layers that predict more tokens ({name}), and {stock} loads none; a "
            "smaller model is written without them, and its config.json says 0",
        )


def note_on_layers(configured: int, stored: int) -> Note:
    """The note for weights that hold more layers than are configured."""
    return Note(
        "layers_beyond_ignored",
        f"config.json says {configured} layers, and the weights hold {stored}: the layers from number {configured} on "
        "are ignored and not written",
    )


def _stated_attention(values: Mapping[str, Any]) -> Iterator[Any]:
    """The values of `attn_implementation` at any depth of objects."""
    for name, value in values.items():
        if name == "attn_implementation":
            yield from value.values() if isinstance(value, Mapping) else [value]
        elif isinstance(value, Mapping):
            yield from _stated_attention(value)
