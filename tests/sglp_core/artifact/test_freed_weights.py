"""Once a model is written, the process that wrote it holds no weights, so that another has room to load the result."""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from sglp_core import Calibration, Evaluation, Method, Options, Progress, RunContext, SilentReporter, Target, compress
from sglp_core.options import Memory
from tests.worker.tiny_model import write_text, write_tiny_model


class Watch(SilentReporter):
    """The shapes of a model's matrices, and those of them that tensors still have where verifying begins.

    What other tests hold is left out.
    """

    def __init__(self) -> None:
        # Held, so that no new object has the id of one of them.
        self._before = [*_objects(LlamaForCausalLM), *_objects(Tensor)]
        self._known = {id(each) for each in self._before}
        self.matrices: set[torch.Size] = set()
        self.left: list[torch.Size] | None = None

    def progress(self, progress: Progress) -> None:
        if progress.phase == "measuring" and not self.matrices:
            models = self._new(LlamaForCausalLM)
            self.matrices = {p.shape for model in models for p in model.parameters() if p.ndim == 2}
        if progress.phase == "verifying" and self.left is None:
            tensors = [each for each in self._new(Tensor) if not each.is_meta]
            self.left = [each.shape for each in tensors if each.shape in self.matrices]

    def _new(self, kind: type) -> list[Any]:
        return [each for each in _objects(kind) if id(each) not in self._known]


def _objects(kind: type) -> list[Any]:
    return [each for each in gc.get_objects() if issubclass(type(each), kind)]


@pytest.mark.parametrize("memory", ["in_memory", "streaming"])
def test_no_weights_are_left_where_verifying_begins(tmp_path: Path, memory: Memory) -> None:
    text = write_text(tmp_path / "text.txt")
    options = Options(
        method=Method(protected=(0, 3, 5)),
        calibration=Calibration(str(text), 16, 16, 4),
        evaluation=Evaluation(samples=4),
    )
    watch = Watch()
    context = RunContext(cache=tmp_path / "cache", memory=memory, reporter=watch)
    report = compress(
        str(write_tiny_model(tmp_path / "model")), Target("layers", 0.34), tmp_path / "out", options, context
    )
    # So there were changed weights, too.
    assert report.repair.changed_tensors
    assert watch.matrices
    assert watch.left == []
