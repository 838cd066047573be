"""Convert a GGUF file to a safetensors directory, in float32, which holds every dequantised value exactly."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from gguf import GGUFReader

from sglp_core.checkpoints.gguf_header import read_tensors
from sglp_core.checkpoints.limits import FEWEST_BITS, require_stored
from sglp_core.checkpoints.weight_checks import require_finite, require_loaded
from sglp_core.errors import UnsafeFormat, as_unsupported
from sglp_core.structure.config import read_config
from sglp_core.structure.model_class import model_class

FLOAT32_BYTES = 4


def check_gguf(path: Path) -> str | None:
    """Check the header of a GGUF file and return the licence that it states. Raises `UnsafeFormat`."""
    read_tensors(path)
    try:
        field = GGUFReader(path).get_field("general.license")
        licence = field.contents() if field else None
    except Exception as error:
        raise UnsafeFormat(f"{path.name} cannot be read by the gguf library: {error}") from error
    return str(licence) if licence else None


def convert_gguf(path: Path, directory: Path, make_room: Callable[[int], None]) -> None:
    """Write the model and its tokenizer to `directory`, which is new. `make_room` is called with its size in bytes.

    Raises `UnsafeFormat`, `UnsupportedArchitecture` and what `make_room` raises.
    """
    with tempfile.TemporaryDirectory(dir=directory.parent) as alone:
        # Named from an empty folder, because transformers would also read the unchecked files beside it. A confined job
        # may make no links.
        model, tokenizer = _load(path, Path(alone))
        make_room(sum(t.numel() * FLOAT32_BYTES for t in model.state_dict().values()))
        _unquantised(model).save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _load(file: Path, empty: Path) -> tuple[Any, Any]:
    """The dequantised model of a GGUF file and its tokenizer; `empty` is a folder without any file."""
    name = str(file.resolve())
    with as_unsupported("transformers cannot read this GGUF file"):
        config = read_config(empty, gguf_file=name)
        stored_bits = sum(tensor.elements for tensor in read_tensors(file)) * FEWEST_BITS
        expected = transformers.AutoModelForCausalLM._model_mapping[type(config)]
        with torch.device("meta"):
            require_stored(sum(p.numel() for p in expected._from_config(config).parameters()), stored_bits)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(empty, gguf_file=name, output_loading_info=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(empty, gguf_file=name)
        require_loaded(info["missing_keys"])
    require_finite(model.named_parameters())
    return model, tokenizer


def _unquantised(model: Any) -> Any:
    """The same model without the mark of a quantised one, with which `save_pretrained` would refuse it."""
    config = model.config
    del config.quantization_config
    config.architectures = [type(model).__name__]
    plain = model_class(config)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain
