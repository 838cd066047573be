"""Random models of three families whose layers matter, in folders, with data for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import GPT2Config, LlamaConfig

from sglp_core import Calibration, Evaluation, Options
from tests.sglp_core.data.tiny_images import write_images, write_tiny_vit
from tests.worker.tiny_model import WORDS, write_text, write_tiny_model

LAYERS = 6
WIDTH = 1024
# Those of the tokenizer: the words and three special tokens.
VOCABULARY = len(WORDS) + 3
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
CONFIGS = {
    "llama": LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=4, **TOKENS
    ),
    "gpt2": GPT2Config(n_embd=32, n_layer=LAYERS, n_head=4, n_positions=128, **TOKENS),
}


@dataclass(frozen=True)
class Job:
    """A model folder and the options of a job on it."""

    model: Path
    options: Options


def write_job(name: str, folder: Path) -> Job:
    """The folder of a `llama`, `gpt2` or `vit`, and options that name its data."""
    model = folder / name
    if name == "vit":
        write_tiny_vit(model)
        images = write_images(folder / "images", each=12)
        return Job(model, Options(calibration=Calibration(str(images), 16, batch_size=4), evaluation=_few()))
    # Its tokenizer is needed, its weights are replaced.
    write_tiny_model(model)
    save(CONFIGS[name], model)
    return Job(model, text_options(folder))


def write_wide_llama(folder: Path, layers: int = LAYERS, **calibration: int) -> Job:
    """A Llama whose weights take hundreds of megabytes, which the device's memory shows: 51 a layer."""
    model = write_tiny_model(folder / "wide")
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=WIDTH // 64,
        **TOKENS,
    )
    save(config, model)
    return Job(model, text_options(folder, **calibration))


def save(config: Any, directory: Path) -> None:
    """Save a random model whose matrices are four times as large as usual, so that every layer changes the logits."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(directory)


def text_options(folder: Path, samples: int = 16, sequence_length: int = 32, batch_size: int = 4) -> Options:
    text = write_text(folder / "text.txt", lines=2 * samples * sequence_length // 12)
    calibration = Calibration(str(text), samples, sequence_length, batch_size)
    return Options(calibration=calibration, evaluation=_few())


def _few() -> Evaluation:
    return Evaluation(samples=4)
