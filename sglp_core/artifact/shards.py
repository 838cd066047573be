"""Remove layers from a checkpoint on disk by copying the bytes of the kept tensors to new shards.

No model is built: only tensor names, headers and the configuration change, and memory is one buffer.
"""

import errno
import json
import shutil
import struct
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path

from sglp_core.checkpoints.limits import require_space
from sglp_core.checkpoints.safetensors_header import SAFETENSORS_BITS
from sglp_core.checkpoints.stored_tensors import StoredTensor, layer_number
from sglp_core.execution.loaded_tensors import LoadedTensors
from sglp_core.structure.config import read_config
from sglp_core.structure.config_renumbering import renumber_config
from sglp_core.structure.model_class import model_class

SHARD_BYTES = 5_000_000_000
GENERATION = "generation_config.json"
# Fits into the processor's cache. That is faster than copying inside the kernel, which splits every page because the
# ranges begin at different offsets within a page in the two files.
BUFFER_BYTES = 2**20

Named = tuple[str, StoredTensor]


def copy_kept_layers(
    loaded: LoadedTensors,
    path: str,
    count: int,
    removed: Sequence[int],
    directory: Path,
    shard_bytes: int = SHARD_BYTES,
) -> dict[int, int]:
    """Write the loaded tensors and the configuration of a model with `count` layers at `path`, without `removed`.

    Returns the map from old to new numbers of the layers that stay. A shard holds at most `shard_bytes`, or one larger
    tensor. Raises `UnsupportedArchitecture` where tensor names do not show their layers, and `InsufficientStorage`
    before anything is written where the disk is too full.
    """
    kept = {old: new for new, old in enumerate(i for i in range(count) if i not in set(removed))}
    prefix = loaded.stack_prefix(path, count)
    named = list(_renumbered(loaded.tensors, prefix, kept))
    directory.mkdir(parents=True, exist_ok=True)
    require_space(directory, int(sum(tensor.size_bytes for _, tensor in named) * 1.02), "the compressed model")
    _write_shards(named, directory, shard_bytes)
    config = read_config(loaded.directory)
    # Where it is not stated, readers take it from the tensor that comes first, and another one may now.
    config.dtype = loaded.dtype
    renumber_config(config.get_text_config(), count, kept)
    config.architectures = [model_class(config).__name__]
    config.save_pretrained(directory)
    if (loaded.directory / GENERATION).is_file():
        shutil.copyfile(loaded.directory / GENERATION, directory / GENERATION)
    return kept


def _renumbered(tensors: Sequence[StoredTensor], prefix: str, kept: dict[int, int]) -> Iterator[Named]:
    for tensor in tensors:
        number = layer_number(tensor.name, prefix)
        if number is None:
            yield tensor.name, tensor
        elif number in kept:
            yield f"{prefix}.{kept[number]}{tensor.name[len(f'{prefix}.{number}') :]}", tensor


def _write_shards(named: Sequence[Named], directory: Path, shard_bytes: int) -> None:
    shards: list[list[Named]] = [[]]
    filled = 0
    for name, tensor in named:
        if shards[-1] and filled + tensor.size_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((name, tensor))
        filled += tensor.size_bytes
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        only = len(shards) == 1
        file = directory / ("model.safetensors" if only else f"model-{number:05}-of-{len(shards):05}.safetensors")
        # Wide types first, so that every tensor begins at a multiple of its element size, which readers expect.
        _write_shard(sorted(shard, key=lambda entry: -SAFETENSORS_BITS[entry[1].dtype]), file)
        weight_map |= {name: file.name for name, _ in shard}
    if len(shards) > 1:
        total = sum(tensor.size_bytes for _, tensor in named)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write_shard(shard: Sequence[Named], file: Path) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in shard:
        begin, end = end, end + tensor.size_bytes
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb", buffering=0) as out:
        out.write(struct.pack("<Q", len(text)) + text)
        buffer = memoryview(bytearray(BUFFER_BYTES))
        for source, begin, size in _byte_ranges(shard):
            with source.open("rb", buffering=0) as original:
                _copy_bytes(original, out, begin, size, buffer)


def _byte_ranges(shard: Sequence[Named]) -> Iterator[tuple[Path, int, int]]:
    """File, first byte and size of each range to copy, in order; tensors adjacent in the source are one range."""
    file, begin, end = shard[0][1].file, shard[0][1].begin, shard[0][1].begin
    for _, tensor in shard:
        if (tensor.file, tensor.begin) != (file, end):
            yield file, begin, end - begin
            file, begin, end = tensor.file, tensor.begin, tensor.begin
        end += tensor.size_bytes
    yield file, begin, end - begin


def _copy_bytes(source: FileIO, target: FileIO, begin: int, size: int, buffer: memoryview) -> None:
    source.seek(begin)
    while size:
        count = source.readinto(buffer[:size])
        if not count:
            raise OSError(errno.EIO, "a weight file became shorter while it was copied")
        size -= count
        written = 0
        while written < count:
            written += target.write(buffer[written:count])
