"""A device that has no room for a batch: smaller ones are measured, once. Its error comes of a layer here."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaMLP

from sglp_core import Calibration, Evaluation, Method, Options, RunContext, SGLPError, Target, compress
from sglp_core.options import Memory
from sglp_core.reporting.report import CompressReport
from tests.worker.tiny_model import write_text, write_tiny_model


def job(folder: Path, out: str, batch_size: int, memory: Memory = "in_memory") -> CompressReport:
    options = Options(
        method=Method(protected=(0, 3, 5)),
        calibration=Calibration(str(write_text(folder / "text.txt")), 16, 16, batch_size),
        evaluation=Evaluation(samples=4),
    )
    model = write_tiny_model(folder / "model")
    context = RunContext(cache=folder / f"{out}-cache", memory=memory)
    return compress(str(model), Target("layers", 0.34), folder / out, options, context)


def give_room_for(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    """While gradients are needed, as measuring does."""
    forward: Any = LlamaMLP.forward

    def limited(self: LlamaMLP, hidden: Tensor) -> Tensor:
        if torch.is_grad_enabled() and len(hidden) > samples:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        result: Tensor = forward(self, hidden)
        return result

    monkeypatch.setattr(LlamaMLP, "forward", limited)


@pytest.mark.parametrize("memory", ["in_memory", "streaming"])
def test_the_job_is_that_of_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: Memory) -> None:
    expected = job(tmp_path, "small", 2, memory)
    give_room_for(monkeypatch, samples=3)
    found = job(tmp_path, "large", 8, memory)
    assert found.calibration == expected.calibration
    assert found.calibration.batch_size == 2
    assert found.plan.removed_layers == expected.plan.removed_layers
    assert found.repair == expected.repair
    assert found.repair.changed_tensors
    assert found.stages == expected.stages


@pytest.mark.parametrize(("samples", "batch_size"), [(1, 8), (0, 1)])
def test_what_does_not_fit_then_is_said_to_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, batch_size: int
) -> None:
    give_room_for(monkeypatch, samples)
    with pytest.raises(SGLPError, match=r"calibration\.batch_size") as caught:
        job(tmp_path, "out", batch_size)
    assert caught.value.code == "gpu_out_of_memory"
    assert not (tmp_path / "out").exists()
