"""A random six-layer Llama with a word tokenizer, and text for it to measure on: a whole job in seconds."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [
    "the",
    "cat",
    "dog",
    "bird",
    "sat",
    "ran",
    "flew",
    "on",
    "under",
    "over",
    "a",
    "mat",
    "hill",
    "tree",
    "and",
    "then",
    "it",
    "slept",
    "ate",
    "sang",
]
LAYERS = 6


VOCABULARY = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}


def write_tokenizer(directory: Path) -> Path:
    """Save the tokenizer alone to `directory`."""
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(directory)
    return directory


def write_tiny_model(directory: Path, hidden_size: int = 32) -> Path:
    """Save the model and its tokenizer to `directory`."""
    torch.manual_seed(0)
    write_tokenizer(directory)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def write_text(file: Path, lines: int = 200) -> Path:
    """Save sentences of the tokenizer's words."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(WORDS), (lines, 12), generator=generator).tolist()
    file.write_text("\n".join(" ".join(WORDS[i] for i in line) for line in draws))
    return file


def tiny_spec(model: Path, text: Path, **changes: Any) -> dict[str, Any]:
    """A job specification for the two of them that takes the fewest steps."""
    return {
        "mode": "compress",
        "model": {"uri": model.as_uri()},
        "target": {"kind": "layers", "ratio": 0.34},
        "calibration": {"source": text.as_uri(), "samples": 8, "sequence_length": 16, "batch_size": 4},
        "evaluation": {"samples": 4},
        **changes,
    }
