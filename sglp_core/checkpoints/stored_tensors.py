"""A safetensors checkpoint as it lies on disk: where every tensor's bytes are, and which layer a name speaks of."""

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
    found = []
    for file in weight_files(directory):
        header = check_safetensors(file)
        header.pop("__metadata__", None)
        # The header was checked to leave no gap, so the tensors end where the file does.
        start = file.stat().st_size - max((entry["data_offsets"][1] for entry in header.values()), default=0)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = entry["data_offsets"]
            found.append(StoredTensor(name, file, entry["dtype"], tuple(entry["shape"]), start + begin, end - begin))
    return found


def stack_prefix(names: Iterable[str], path: str, count: int) -> str:
    """What stands before the layer number in a checkpoint whose model keeps its `count` layers at `path`.

    That is `path` itself; or an end of it where the checkpoint was saved without the head around it (`h` for
    `transformer.h`), or either inside another module; or, where a family's names on disk are not those in memory, the
    one outermost list of as many entries. Raises `UnsupportedArchitecture` where no prefix, or more than one of the
    same kind, carries exactly the numbers 0 to count − 1.
    """
    names = list(names)
    parts = path.split(".")
    ends = [re.escape(".".join(parts[start:])) for start in range(len(parts))]
    for end in [*ends, r"[^.]+"]:
        # No number before the layer's: a layer may hold numbered lists of the same name itself.
        pattern = re.compile(rf"((?:(?!\d+\.)[^.]+\.)*?{end})\.(\d+)\.")
        numbers: dict[str, set[int]] = {}
        for name in names:
            if match := pattern.match(name):
                numbers.setdefault(match[1], set()).add(int(match[2]))
        fitting = [prefix for prefix, found in numbers.items() if found == set(range(count))]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise UnsupportedArchitecture(
                f"the checkpoint has more than one stack of {count} layers ({', '.join(sorted(fitting))}), so it is "
                f"not clear which tensors belong to {path}"
            )
    raise UnsupportedArchitecture(
        f"the checkpoint's tensor names do not number the {count} layers of {path}: looked for names with the numbers "
        f"0 to {count - 1} after {path!r}, after an end of it, or in any other one list"
    )


def layer_number(name: str, prefix: str) -> int | None:
    """The layer that a tensor belongs to, or None for one outside the stack."""
    match = re.match(rf"{re.escape(prefix)}\.(\d+)\.", name)
    return int(match[1]) if match else None
