"""A GGUF file becomes a safetensors directory once: in float32, which holds every dequantised value."""

import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from gguf import GGUFReader

from sglp_core.checkpoints.gguf_header import read_tensors
from sglp_core.errors import UnsafeFormat, as_unsupported
from sglp_core.loading.load_weights import require_finite, require_loaded
from sglp_core.structure.config import read_config
from sglp_core.structure.model_class import model_class

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
    from sglp_core.checkpoints.limits import FEWEST_BITS, require_space, require_stored

    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix="converting-") as scratch:
        # By itself: transformers would also read what lies beside the file, which nobody has checked.
        alone = Path(scratch) / "alone"
        alone.mkdir()
        (alone / "model.gguf").symlink_to(path)
        with as_unsupported("transformers cannot read this GGUF file"):
            config = read_config(alone, gguf_file="model.gguf")
            stored_bits = sum(tensor.elements for tensor in read_tensors(path)) * FEWEST_BITS
            expected = transformers.AutoModelForCausalLM._model_mapping[type(config)]
            with torch.device("meta"):
                require_stored(sum(p.numel() for p in expected._from_config(config).parameters()), stored_bits)
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                alone, gguf_file="model.gguf", output_loading_info=True
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(alone, gguf_file="model.gguf")
            require_loaded(info["missing_keys"])
        require_finite(model.named_parameters())
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
