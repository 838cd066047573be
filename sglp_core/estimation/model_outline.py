"""What the configuration and the tensor headers of a model say; no weight is read or downloaded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from sglp_core.checkpoints.fetch import Fetched, FetchedOutline, fetch_outline
from sglp_core.checkpoints.gguf_header import read_tensors
from sglp_core.checkpoints.limits import FEWEST_BITS
from sglp_core.checkpoints.model_folder import check_folder, refuse_adapters, refuse_endless_layers, require_gguf
from sglp_core.checkpoints.safetensors_header import SAFETENSORS_BITS
from sglp_core.checkpoints.stored_tensors import StoredTensor, stored_tensors
from sglp_core.checkpoints.strict_json import read_json
from sglp_core.errors import ModelNotFound, UnsafeFormat
from sglp_core.execution.loaded_tensors import read_loaded_tensors
from sglp_core.loading.first_look import FirstLook, look_at, look_at_gguf, with_tensors
from sglp_core.loading.gguf_conversion import check_gguf
from sglp_core.structure.config import read_config
from sglp_core.structure.layer_stack import LayerStack
from sglp_core.structure.model_class import only_class
from sglp_core.structure.notes import Note
from sglp_core.tasks import Task

# For a model on a hub, where only the values of each dtype are counted, and not the tensors.
MOST_LAYERS = 10_000
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


@dataclass(frozen=True)
class Outline:
    """A model before its weights are loaded; `dtype` is that of most weights once loaded, as safetensors names it."""

    origin: str
    revision: str | None
    format: str
    config: transformers.PretrainedConfig
    class_name: str
    task: Task
    stack: LayerStack
    image_shape: tuple[int, ...] | None
    dtype: str
    notes: tuple[Note, ...]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type that the model computes in."""
        return DTYPES.get(self.dtype, torch.float32)

    @property
    def weight_bytes(self) -> int:
        """The weights in memory."""
        return self.stack.total_parameters * SAFETENSORS_BITS[self.dtype] // 8


def read_outline(
    model: str | FetchedOutline, revision: str | None, sequence_length: int, cache: Path, roots: Sequence[Path] | None
) -> Outline:
    """Read a model's outline.

    Raises the errors of `fetch`, `look_at` and the checks of files, and for a model that is not on a hub those of
    `read_loaded_tensors`.
    """
    outlined = model if isinstance(model, FetchedOutline) else fetch_outline(model, revision, cache, roots)
    path = outlined.fetched.path
    refuse_adapters(path)
    if path.is_file():
        require_gguf(path)
        check_gguf(path)
        stored_bits = sum(tensor.elements for tensor in read_tensors(path)) * FEWEST_BITS
        config = read_config(path.parent, gguf_file=path.name)
        config.architectures = [only_class(config)]
        # GGUF files are converted to this.
        return _outline(outlined.fetched, "gguf", look_at_gguf(config, stored_bits, sequence_length), "F32")
    if not (path / "config.json").is_file():
        raise ModelNotFound(f"{path.name} has no config.json; a model is a Hugging Face directory or one GGUF file")
    check_folder(path, roots if outlined.fetched.revision is None else None)
    tensors = [] if outlined.weights_by_dtype else stored_tensors(path)
    # For a model on a hub, the dtypes are all that is known of its tensors.
    types = {each.name: each.dtype for each in tensors} or {dtype: dtype for dtype in outlined.weights_by_dtype}
    values = outlined.weights_by_dtype or _values_by_dtype(path, tensors)
    refuse_endless_layers(read_json(path / "config.json"), len(tensors) or MOST_LAYERS)
    stored_bits = sum(count * SAFETENSORS_BITS[dtype] for dtype, count in values.items())
    look = look_at(path, types, stored_bits, sequence_length)
    if tensors:
        look = with_tensors(look, read_loaded_tensors(path))
    return _outline(outlined.fetched, "safetensors", look, max(values, key=lambda dtype: values[dtype]))


def _outline(fetched: Fetched, form: str, look: FirstLook, dtype: str) -> Outline:
    return Outline(
        fetched.origin,
        fetched.revision,
        form,
        look.config,
        look.model_class.__name__,
        look.task,
        look.stack,
        look.image_shape,
        dtype,
        look.notes,
    )


def _values_by_dtype(directory: Path, tensors: Sequence[StoredTensor]) -> dict[str, int]:
    """The number of weights of each dtype."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.dtype] += tensor.size_bytes * 8 // SAFETENSORS_BITS[tensor.dtype]
    if not counts.total():
        raise UnsafeFormat(f"the weights of {directory.name} hold no tensors")
    return dict(counts)
