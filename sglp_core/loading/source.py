"""Check a local model and make it a directory that the classes of transformers can load."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sglp_core.checkpoints.converted_models import ConvertedModel, ConvertedModels
from sglp_core.checkpoints.model_card import OriginalCard, read_card
from sglp_core.checkpoints.model_folder import (
    check_folder,
    refuse_adapters,
    refuse_endless_layers,
    require_gguf,
    sha256_of,
    within,
)
from sglp_core.checkpoints.safetensors_header import check_safetensors, weight_files
from sglp_core.checkpoints.strict_json import read_json
from sglp_core.errors import ModelNotFound


@dataclass(frozen=True)
class Source:
    """A checked model directory that `from_pretrained` can load, and facts of the original model.

    `format` is `safetensors` or `gguf`; `digest` is the sha256 over the names and contents of the original
    configuration and weight files. A converted model is kept as long as its source exists.
    """

    directory: Path
    format: str
    digest: str
    card: OriginalCard
    converted: ConvertedModel | None = field(default=None, repr=False, compare=False)


def open_source(path: Path, converted: ConvertedModels, roots: Sequence[Path] | None = None) -> Source:
    """Check a local model and make it loadable; a GGUF file is converted once, keyed by its content.

    Raises `ModelNotFound`, `SourceForbidden` (a link leads out of `roots`), `UnsafeFormat`, `InsufficientStorage`.
    """
    path = within(path, roots)
    refuse_adapters(path)
    if path.is_file():
        return _open_gguf(path, converted)
    return _open_directory(path, roots)


def _open_directory(directory: Path, roots: Sequence[Path] | None) -> Source:
    config_file = directory / "config.json"
    if not config_file.is_file():
        raise ModelNotFound(
            f"{directory.name} has no config.json; a model is a Hugging Face directory or one GGUF file"
        )
    check_folder(directory, roots)
    files = weight_files(directory)
    tensors = sum(len(check_safetensors(file).keys() - {"__metadata__"}) for file in files)
    refuse_endless_layers(read_json(config_file), tensors)
    digest = hashlib.sha256()
    for file in [config_file, *files]:
        digest.update(f"{file.name}\0{sha256_of(file)}\0".encode())
    return Source(directory, "safetensors", digest.hexdigest(), read_card(directory))


def _open_gguf(path: Path, converted: ConvertedModels) -> Source:
    require_gguf(path)
    from sglp_core.loading.gguf_conversion import check_gguf, convert_gguf

    card = OriginalCard(check_gguf(path))
    digest = sha256_of(path)
    model = converted.find_or_write(digest, lambda directory: convert_gguf(path, directory, converted.make_room))
    return Source(model.directory, "gguf", digest, card, model)
