"""Find where the bytes of each tensor of a safetensors checkpoint are, and which layer each tensor belongs to."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sglp_core.checkpoints.safetensors_header import check_safetensors, weight_files
from sglp_core.errors import UnsupportedArchitecture


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: `dtype` as safetensors calls it, `begin` in bytes from the start of the file."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    size_bytes: int


def stored_tensors(directory: Path) -> list[StoredTensor]:
    """All tensors of a model directory, file by file in the order of their bytes.

    Raises the errors of `weight_files` and `check_safetensors`.
    """
    tensors = []
    for file in weight_files(directory):
        header = check_safetensors(file)
        header.pop("__metadata__", None)
        # The header was checked to leave no gap, so the tensors end where the file does.
        start = file.stat().st_size - max((entry["data_offsets"][1] for entry in header.values()), default=0)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            tensors.append(StoredTensor(name, file, entry["dtype"], tuple(entry["shape"]), start + begin, end - begin))
    return tensors


def stack_prefix(names: Iterable[str], path: str, count: int) -> str:
    """The part of a tensor name before the layer number, for a model with `count` layers at `path`.

    It is, in this order: `path` itself; a suffix of it where the checkpoint was saved without the head around the
    layers (`h` for `transformer.h`); either of these inside another module; or, where a family's names on disk differ
    from those in memory, the only other list of `count` entries. Raises `UnsupportedArchitecture` where no prefix, or
    more than one of the same rank, is followed by exactly the numbers 0 to count − 1.
    """
    names = list(names)
    parts = path.split(".")
    suffixes = [re.escape(".".join(parts[start:])) for start in range(len(parts))]
    for suffix in [*suffixes, r"[^.]+"]:
        # No number before the layer number: a layer may itself contain numbered lists of the same name.
        pattern = re.compile(rf"((?:(?!\d+\.)[^.]+\.)*?{suffix})\.(\d+)\.")
        numbers: dict[str, set[int]] = {}
        for name in names:
            if match := pattern.match(name):
                numbers.setdefault(match[1], set()).add(int(match[2]))
        fitting = [prefix for prefix, indices in numbers.items() if indices == set(range(count))]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise UnsupportedArchitecture(
                f"the checkpoint has more than one stack of {count} layers ({', '.join(sorted(fitting))}); cannot tell "
                f"which of them is {path}"
            )
    raise UnsupportedArchitecture(
        f"the checkpoint's tensor names do not number the {count} layers of {path}: looked for the numbers 0 to "
        f"{count - 1} after {path!r}, after a suffix of it, or in one other list"
    )


def layer_number(name: str, prefix: str) -> int | None:
    """The layer that a tensor belongs to, or None for one outside the stack."""
    match = re.match(rf"{re.escape(prefix)}\.(\d+)\.", name)
    return int(match[1]) if match else None
