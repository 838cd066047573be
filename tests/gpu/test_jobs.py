"""Whole jobs on an accelerator give the results of the CPU, and leave its memory to the process that verifies."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import sglp_core
from sglp_core import Progress, RunContext, SGLPError, SilentReporter, SweepTarget, Target
from sglp_core.options import Memory
from tests.gpu.models import Job, write_job, write_wide_llama

pytestmark = pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator here")

THIRD = Target("layers", 0.34)
# Sums are in another order; a repair solves equations, which makes the difference larger.
TOLERANCE = 1e-3
# What cuBLAS keeps for itself as long as the process lives: 32 MiB for each of two threads on a Hopper GPU.
WORKSPACES = 2 * 2**25
NO_DEVICE = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "ZE_AFFINITY_MASK": ""}
# A process cannot hide a device that it has seen, so the job on the CPU has a process for itself.
ON_CPU = """
import sys
from pathlib import Path
import torch
from tests.gpu.models import write_job
from tests.gpu.test_jobs import run
assert not torch.accelerator.is_available()
name, mode, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
run(write_job(name, folder), mode, folder / "out")
"""


@pytest.mark.parametrize("name", ["llama", "gpt2", "vit"])
def test_a_compress_job_chooses_and_repairs_as_on_the_cpu(tmp_path: Path, name: str) -> None:
    on_cpu, on_device = _both(tmp_path, name, "compress")
    assert on_device["plan"]["removed_layers"] == on_cpu["plan"]["removed_layers"]
    assert on_device["repair"]["changed_tensors"] == on_cpu["repair"]["changed_tensors"]
    _assert_same_weights(tmp_path / "device/out/model", tmp_path / "cpu/out/model")
    for ours, theirs in zip(on_device["stages"], on_cpu["stages"], strict=True):
        assert ours["perplexity"] == pytest.approx(theirs["perplexity"], rel=1e-2)
    assert on_device["verification"]["passed"]


def test_an_analyze_job_measures_as_on_the_cpu(tmp_path: Path) -> None:
    on_cpu, on_device = _both(tmp_path, "llama", "analyze")
    ours, theirs = on_device["analysis"], on_cpu["analysis"]
    assert ours["segments"] == theirs["segments"]


def test_a_sweep_judges_as_on_the_cpu(tmp_path: Path) -> None:
    on_cpu, on_device = _both(tmp_path, "llama", "sweep")
    for ours, theirs in zip(on_device["sweep"]["points"], on_cpu["sweep"]["points"], strict=True):
        assert ours["removed_layers"] == theirs["removed_layers"]
        assert ours["perplexity"] == pytest.approx(theirs["perplexity"], rel=1e-2)


@pytest.mark.parametrize("memory", ["in_memory", "streaming"])
def test_both_placements_write_the_same_weights(tmp_path: Path, memory: Memory) -> None:
    job = write_job("llama", tmp_path)
    sglp_core.compress(str(job.model), THIRD, tmp_path / "auto", job.options, RunContext(cache=tmp_path / "a"))
    context = RunContext(cache=tmp_path / "b", memory=memory)
    sglp_core.compress(str(job.model), THIRD, tmp_path / "other", job.options, context)
    _assert_same_weights(tmp_path / "other/model", tmp_path / "auto/model")


def test_the_footprint_in_a_fresh_process_has_latency_and_memory(tmp_path: Path) -> None:
    job = write_job("llama", tmp_path)
    report = sglp_core.compress(str(job.model), THIRD, tmp_path / "out", job.options, RunContext(cache=tmp_path / "c"))
    after = {row.metric: row.after for row in report.table}
    assert after["prefill_seconds"] > 0
    assert after["peak_memory_bytes"] > after["weight_bytes"]


def test_the_memory_of_the_device_is_free_when_a_fresh_process_loads_the_model(tmp_path: Path) -> None:
    job = write_wide_llama(tmp_path)
    weight_bytes = (job.model / "model.safetensors").stat().st_size
    reporter = _MemoryWatch()
    context = RunContext(cache=tmp_path / "cache", memory="in_memory", reporter=reporter)
    sglp_core.compress(str(job.model), THIRD, tmp_path / "out", job.options, context)
    # Else the model has not been on the device, and the next line would say nothing.
    assert reporter.reserved["measuring"] > weight_bytes / 2
    assert reporter.reserved["verifying"] < WORKSPACES + weight_bytes / 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only the memory of CUDA devices can be capped")
def test_a_device_too_small_for_one_layer_is_reported_as_out_of_memory(tmp_path: Path) -> None:
    # A layer has 25 MB in float32 a thousand channels wide, and its gradients as many.
    job = write_wide_llama(tmp_path)
    with _capped(20 << 20), pytest.raises(SGLPError) as caught:
        sglp_core.compress(str(job.model), THIRD, tmp_path / "out", job.options, RunContext(cache=tmp_path / "cache"))
    assert caught.value.code == "gpu_out_of_memory"
    assert not (tmp_path / "out/model").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only the memory of CUDA devices can be capped")
def test_a_device_smaller_than_the_weights_gives_the_same_weights(tmp_path: Path) -> None:
    job = write_wide_llama(tmp_path, layers=12)
    weight_bytes = (job.model / "model.safetensors").stat().st_size
    sglp_core.compress(str(job.model), THIRD, tmp_path / "whole", job.options, RunContext(cache=tmp_path / "a"))
    with _capped(weight_bytes * 2 // 3):
        sglp_core.compress(str(job.model), THIRD, tmp_path / "capped", job.options, RunContext(cache=tmp_path / "b"))
    _assert_same_weights(tmp_path / "capped/model", tmp_path / "whole/model")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only the memory of CUDA devices can be capped")
def test_smaller_batches_are_measured_where_the_device_has_no_room_for_those_asked_for(tmp_path: Path) -> None:
    # What a layer keeps of so many tokens for its backward pass, 130 kB each, is more than the device has beside it.
    job = write_wide_llama(tmp_path, sequence_length=512, batch_size=16)
    with _capped(800 << 20):
        context = RunContext(cache=tmp_path / "cache")
        report = sglp_core.compress(str(job.model), THIRD, tmp_path / "out", job.options, context)
    assert report.calibration.batch_size == 4
    assert report.verification.passed


def run(job: Job, mode: str, output: Path) -> None:
    """The job in this mode, with nothing in its cache."""
    context = RunContext(cache=output.parent / "cache")
    if mode == "compress":
        sglp_core.compress(str(job.model), THIRD, output, job.options, context)
    elif mode == "analyze":
        sglp_core.analyze(str(job.model), output, job.options, context)
    else:
        sglp_core.sweep(str(job.model), SweepTarget("layers", (0.17, 0.34)), output, job.options, context)


class _MemoryWatch(SilentReporter):
    """The most bytes that PyTorch held on the device when a phase reported; of `verifying`, only its start."""

    def __init__(self) -> None:
        self.reserved: dict[str, int] = {}

    def progress(self, progress: Progress) -> None:
        now = torch.accelerator.memory_reserved()
        if progress.phase != "verifying" or not progress.done:
            self.reserved[progress.phase] = max(now, self.reserved.get(progress.phase, 0))


@contextmanager
def _capped(size: int) -> Iterator[None]:
    """PyTorch may take so many bytes of the device inside the `with` statement."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _both(folder: Path, name: str, mode: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The reports of a job on the CPU and of the same job on the device."""
    cpu, device = folder / "cpu", folder / "device"
    cpu.mkdir()
    device.mkdir()
    root = Path(__file__).parents[2]
    environment = {**os.environ, **NO_DEVICE}
    subprocess.run([sys.executable, "-c", ON_CPU, name, mode, cpu], check=True, env=environment, cwd=root)
    run(write_job(name, device), mode, device / "out")
    on_cpu, on_device = (json.loads((each / "out/report.json").read_text()) for each in (cpu, device))
    return on_cpu, on_device


def _assert_same_weights(ours: Path, theirs: Path) -> None:
    ours_by_name, theirs_by_name = (load_file(each / "model.safetensors") for each in (ours, theirs))
    assert ours_by_name.keys() == theirs_by_name.keys()
    for name, expected in theirs_by_name.items():
        difference = (ours_by_name[name].float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-6)
        assert difference < TOLERANCE, name
