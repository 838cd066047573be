"""What the configuration and the tensor headers of a model say; no weight is read or downloaded."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from sglp_core.checkpoints.fetch import FetchedOutline, fetch_outline
from sglp_core.checkpoints.gguf_header import read_tensors
from sglp_core.checkpoints.limits import FEWEST_BITS
from sglp_core.checkpoints.model_folder import check_folder, refuse_adapters, refuse_endless_layers, require_gguf
from sglp_core.checkpoints.safetensors_header import SAFETENSORS_BITS
from sglp_core.checkpoints.stored_tensors import stored_tensors
from sglp_core.checkpoints.strict_json import read_json
from sglp_core.errors import ModelNotFound, UnsafeFormat, UnsupportedArchitecture
from sglp_core.loading.gguf_conversion import check_gguf
from sglp_core.loading.processor import image_shape, processor_of
from sglp_core.structure.config import read_config
from sglp_core.structure.layer_stack import LayerStack, measure_stack
from sglp_core.structure.max_positions import require_length
from sglp_core.structure.model_class import model_class
from sglp_core.tasks import Task, require_classes, task_of

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
    """Read a model's outline. Raises the errors of `fetch`, `measure_stack` and the checks of files."""
    outlined = model if isinstance(model, FetchedOutline) else fetch_outline(model, revision, cache, roots)
    path = outlined.fetched.path
    refuse_adapters(path)
    if path.is_file():
        require_gguf(path)
        check_gguf(path)
        stored_bits = sum(tensor.elements for tensor in read_tensors(path)) * FEWEST_BITS
        config = read_config(path.parent, gguf_file=path.name)
        config.architectures = [_causal_class(config)]
        # GGUF files are converted to this.
        form, dtype = "gguf", "F32"
    else:
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"{path.name} has no config.json; a model is a Hugging Face directory or one GGUF file")
        check_folder(path, roots if outlined.fetched.revision is None else None)
        values, tensors = (
            (outlined.weights_by_dtype, MOST_LAYERS) if outlined.weights_by_dtype else _stored_values(path)
        )
        refuse_endless_layers(read_json(path / "config.json"), tensors)
        stored_bits = sum(count * SAFETENSORS_BITS[name] for name, count in values.items())
        config, form, dtype = read_config(path), "safetensors", max(values, key=lambda name: values[name])
    stock = model_class(config)
    task = task_of(stock)
    require_classes(config, task)
    shape = image_shape(processor_of(task, path)) if task == "image_classification" else None
    if task != "image_classification":
        require_length(config, sequence_length)
    stack = measure_stack(config, sequence_length, shape, stored_bits)
    return Outline(
        outlined.fetched.origin, outlined.fetched.revision, form, config, stock.__name__, task, stack, shape, dtype
    )


def _stored_values(directory: Path) -> tuple[dict[str, int], int]:
    """The number of weights of each dtype, and the number of tensors."""
    counts: Counter[str] = Counter()
    tensors = stored_tensors(directory)
    for tensor in tensors:
        counts[tensor.dtype] += tensor.size_bytes * 8 // SAFETENSORS_BITS[tensor.dtype]
    if not counts.total():
        raise UnsafeFormat(f"the weights of {directory.name} hold no tensors")
    return dict(counts), len(tensors)


def _causal_class(config: transformers.PretrainedConfig) -> str:
    causal_class = transformers.AutoModelForCausalLM._model_mapping.get(type(config), None)
    if causal_class is None:
        raise UnsupportedArchitecture(f"transformers has no causal language model for {config.model_type}")
    return str(causal_class.__name__)
