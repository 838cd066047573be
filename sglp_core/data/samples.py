"""What calibration, evaluation and healing draw from a source: samples of one kind, in the order of the draw."""

import hashlib
from collections.abc import Iterator
from typing import Any, Protocol, Self

from torch import Tensor

from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.tasks import Batch, Task

DIGESTED_AT_ONCE = 64


class Samples(Protocol):
    """Token windows, texts or images, in the order in which they were drawn.

    Their tensors may lie in mapped files (`mapped_tensor`), and be larger than memory. `noun` names them in reports,
    `digest` is the sha256 of their content, `probe` a small input for comparing logits, and `split(n)` gives the first
    n and the others.
    """

    @property
    def noun(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def probe(self) -> dict[str, Tensor]: ...
    def __len__(self) -> int: ...
    def split(self, first: int) -> tuple[Self, Self]: ...
    def batches(self, task: Task, processor: Any, batch_size: int, seed: int) -> Iterator[Batch]: ...

    def to_train_on(self, loaded: LoadedModel, batch_size: int, seed: int) -> Batch:
        """The samples of `batches` as one, in mapped files."""
        ...


def digest_of(*tensors: Tensor) -> str:
    """The sha256 of the numbers of all, a few rows at a time; floating ones as float32."""
    digest = hashlib.sha256()
    for tensor in tensors:
        for rows in tensor.split(DIGESTED_AT_ONCE):
            digest.update((rows.float() if rows.is_floating_point() else rows).contiguous().numpy())
    return digest.hexdigest()
