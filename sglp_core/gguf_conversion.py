"""A GGUF file becomes a safetensors directory once: in float32, which holds every dequantised value."""

import shutil
import tempfile
from pathlib import Path

import transformers
from gguf import GGUFReader

from sglp_core.errors import UnsafeFormat, UnsupportedArchitecture
from sglp_core.gguf_header import read_tensors
from sglp_core.layers import model_class

FLOAT32_BYTES = 4


def check_gguf(path: Path) -> str | None:
    """Check that a GGUF file is what its header says; returns the licence it states. Raises `UnsafeFormat`."""
    read_tensors(path)
    try:
        field = GGUFReader(path).get_field("general.license")
        licence = field.contents() if field else None
    except Exception as error:
        raise UnsafeFormat(f"{path.name} is not a GGUF file that the gguf library reads: {error}") from error
    return str(licence) if licence else None


def convert_gguf(path: Path, directory: Path) -> Path:
    """Write the model and its tokenizer to `directory`, unless it is there already; safe with two at once."""
    from sglp_core.sources import require_space

    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="converting-") as scratch:
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
            tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        except Exception as error:
            raise UnsupportedArchitecture(f"transformers cannot read this GGUF file: {error}") from error
        weights = model.state_dict()
        require_space(directory.parent, sum(t.numel() * FLOAT32_BYTES for t in weights.values()), "the converted model")
        # A model loaded from GGUF refuses save_pretrained, so the weights move into one that never was quantised.
        config = model.config
        del config.quantization_config
        config.architectures = [type(model).__name__]
        plain = model_class(config)(config)
        plain.load_state_dict(weights, assign=True)
        plain.tie_weights()
        plain.generation_config = model.generation_config
        written = Path(scratch) / "model"
        plain.save_pretrained(written)
        tokenizer.save_pretrained(written)
        try:
            written.rename(directory)
        except OSError:
            # Another job converted the same content meanwhile; its result is the same.
            shutil.rmtree(written)
    return directory
