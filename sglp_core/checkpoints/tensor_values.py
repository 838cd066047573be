"""Read tensors of a checkpoint from their files, whole or in parts, into new memory."""

import torch
from torch import Tensor

from sglp_core.checkpoints.stored_tensors import StoredTensor
from sglp_core.errors import UnsupportedArchitecture

TORCH_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
COMPARED_NUMBERS = 2**22


def torch_type(tensor: StoredTensor) -> torch.dtype:
    """Its type. Raises `UnsupportedArchitecture` for types that are not read from disk tensor by tensor."""
    if tensor.dtype not in TORCH_TYPES:
        raise UnsupportedArchitecture(
            f"tensors of type {tensor.dtype} are not streamed from disk; the model has to fit in memory"
        )
    return TORCH_TYPES[tensor.dtype]


def read_tensor(tensor: StoredTensor) -> Tensor:
    """The tensor in CPU memory. Raises `UnsupportedArchitecture` as `torch_type` does."""
    return _read(tensor, 0, tensor.size_bytes).view(tensor.shape)


def equal_as(dtype: torch.dtype, one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors have the same shape and, once rounded to a type, the same numbers; read in parts."""
    if one.shape != other.shape:
        return False
    widths = [torch_type(tensor).itemsize for tensor in (one, other)]
    count = one.size_bytes // widths[0]
    for first in range(0, count, COMPARED_NUMBERS):
        end = min(count, first + COMPARED_NUMBERS)
        parts = (
            _read(tensor, first * width, (end - first) * width).to(dtype)
            for tensor, width in zip((one, other), widths, strict=True)
        )
        if not torch.equal(*parts):
            return False
    return True


def _read(tensor: StoredTensor, begin: int, size: int) -> Tensor:
    """Some bytes of a tensor as a vector of its type; `begin` is counted from the tensor's first byte."""
    dtype = torch_type(tensor)
    content = torch.empty(size, dtype=torch.uint8)
    with tensor.file.open("rb", buffering=0) as file:
        file.seek(tensor.begin + begin)
        view, filled = content.numpy().data, 0
        while filled < size:
            # One read returns at most 2 GiB.
            filled += file.readinto(view[filled:]) or 0
    return content.view(dtype)
