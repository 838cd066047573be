"""Once a model is written, the process that wrote it holds no weights, so that another has room to load the result."""

import gc
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

from sglp_core import Calibration, Evaluation, Options, Progress, RunContext, SilentReporter, Target, compress
from sglp_core.options import Memory
from tests.worker.tiny_model import write_text, write_tiny_model


class Watch(SilentReporter):
    """The sizes of the parameters that exist where verifying begins."""

    def __init__(self) -> None:
        self.sizes: list[int] | None = None

    def progress(self, progress: Progress) -> None:
        if progress.phase == "verifying" and self.sizes is None:
            models: list[Any] = [each for each in gc.get_objects() if type(each) is LlamaForCausalLM]
            self.sizes = [p.numel() for model in models for p in model.parameters() if not p.is_meta]


@pytest.mark.parametrize("memory", ["in_memory", "streaming"])
def test_no_weights_are_left_where_verifying_begins(tmp_path: Path, memory: Memory) -> None:
    text = write_text(tmp_path / "text.txt")
    options = Options(calibration=Calibration(str(text), 8, 16, 4), evaluation=Evaluation(samples=4))
    watch = Watch()
    context = RunContext(cache=tmp_path / "cache", memory=memory, reporter=watch)
    compress(str(write_tiny_model(tmp_path / "model")), Target("layers", 0.34), tmp_path / "out", options, context)
    assert watch.sizes == []
