"""Estimates beside the measured seconds and peak memory of the jobs, through the embedded service.

    python -m benchmarks.estimates --data ../shared/data

Every model is estimated and then compressed by a service that has never seen it. The seconds of a phase are those
between its first event and that of the next; its peak is the largest resident set of the job's own process (VmHWM),
which is set back as soon as the next phase is seen.
"""

import itertools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import transformers
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from sglp_client import SGLP, Job

from benchmarks.cifar_models import write_model
from benchmarks.encoder_repairs import convert_rxnfp
from benchmarks.larger_than_memory import random_llama
from sglp_service.demo import find_model
from sglp_service.embedded_stack import EmbeddedStack

Spec = dict[str, Any]
# A specification of a job; from an empty folder, and that of the data.
Case = Callable[[Path, Path], Spec]
IMAGE_SIZE = 224
SAMPLED_SECONDS = 0.05


def main(
    data: Annotated[Path, typer.Option(help="Folder with cifar10/ and cifar10-resnets/.", exists=True)],
    only: Annotated[list[str] | None, typer.Option(help="Only these models; repeatable.")] = None,
    phases: Annotated[bool, typer.Option(help="Also a row for every phase.")] = False,
) -> None:
    """Print a row for every model."""
    table = Table("model", "phase", *("seconds estimated", "taken", "ratio"), *("MB estimated", "peak", "ratio"))
    for name in only or CASES:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            spec = CASES[name](work, data)
            with EmbeddedStack(work / "state", model_roots=[work, data.resolve(), find_model().parent]) as stack:
                estimate, job, taken, peaks = _both(stack, spec)
        if phases:
            for phase in {**estimate["seconds"], **taken}:
                seconds = _beside(estimate["seconds"].get(phase, 0.0), taken.get(phase, 0.0))
                memory = _beside((estimate["memory_bytes"].get(phase) or 0) / 1e6, peaks.get(phase, 0) / 1e6)
                table.add_row(name, phase, *seconds, *memory)
        megabytes = _beside((estimate["peak_memory_bytes"] or 0) / 1e6, max(peaks.values()) / 1e6)
        table.add_row(name, "all", *_beside(estimate["total_seconds"], _seconds(job)), *megabytes)
    Console(width=120).print(table)


def _both(stack: EmbeddedStack, spec: Spec) -> tuple[Spec, Job, dict[str, float], dict[str, int]]:
    """The estimate, the job, its seconds by phase, and its peak memory by phase."""
    with SGLP(stack.url) as service:
        estimating = service.wait(service.submit({**spec, "mode": "estimate"})["id"])
        assert estimating["status"] == "succeeded", estimating
        estimate = service.report(estimating["id"])["estimate"]
        job_id = service.submit(spec)["id"]
        peaks: dict[str, int] = defaultdict(int)
        before = ""
        while (job := service.get(job_id))["finished_at"] is None:
            # What is looked at in a phase for the first time may be the end of the one before.
            peaks[before] = max(peaks[before], _peak_bytes())
            before = job["phase"] or before
            time.sleep(SAMPLED_SECONDS)
        assert job["status"] == "succeeded", job
        events = list(service.events(job_id))
    taken: dict[str, float] = defaultdict(float)
    phase = ""
    for event, following in itertools.pairwise(events):
        # Some events, as the judgements of a healing, happen within a phase.
        phase = event["data"].get("phase") or phase
        taken[phase] += (_time(following["created_at"]) - _time(event["created_at"])).total_seconds()
    return estimate, job, taken, peaks


def _peak_bytes() -> int:
    """The largest resident set of a job's process since this was last asked."""
    peak = 0
    for process in psutil.Process().children(recursive=True):
        # A process may end while it is looked at.
        with suppress(psutil.Error, OSError, StopIteration):
            if any(part.startswith("worker.child") for part in process.cmdline()):
                proc = Path(f"/proc/{process.pid}")
                high = next(line for line in (proc / "status").read_text().splitlines() if line.startswith("VmHWM:"))
                peak = max(peak, int(high.split()[1]) * 1024)
                # Sets the high-water mark back to what is resident now (proc(5)).
                (proc / "clear_refs").write_text("5")
    return peak


def _smollm2(_work: Path, _data: Path) -> Spec:
    return {
        "model": {"uri": find_model().as_uri()},
        "target": {"kind": "parameters", "ratio": 0.25},
        "calibration": {"samples": 32, "sequence_length": 256},
    }


def _bert(work: Path, _data: Path) -> Spec:
    return {
        "model": {"uri": convert_rxnfp(work / "bert").as_uri()},
        "target": {"kind": "layers", "ratio": 0.25},
        "calibration": {"samples": 64, "sequence_length": 128},
    }


def _vit(work: Path, _data: Path) -> Spec:
    classes = dict(enumerate(("red", "green", "blue")))
    config = transformers.ViTConfig(
        hidden_size=192,
        intermediate_size=768,
        num_attention_heads=3,
        id2label=classes,
        label2id={name: number for number, name in classes.items()},
    )
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(work / "vit")
    transformers.ViTImageProcessor().save_pretrained(work / "vit")
    generator = np.random.default_rng(0)
    for number, name in classes.items():
        (work / "images" / name).mkdir(parents=True)
        for image in range(40):
            pixels = generator.integers(0, 128, (IMAGE_SIZE, IMAGE_SIZE, 3))
            pixels[..., number] += 100
            Image.fromarray(pixels.astype(np.uint8)).save(work / "images" / name / f"{image}.png")
    return {
        "model": {"uri": (work / "vit").as_uri()},
        "target": {"kind": "layers", "ratio": 0.25},
        "calibration": {"source": (work / "images").as_uri(), "samples": 64},
    }


def _llama(work: Path, _data: Path) -> Spec:
    subject = random_llama(work, 8, 1024)
    return {
        "model": {"uri": (work / "model").as_uri()},
        "target": {"kind": "layers", "ratio": 0.25},
        "calibration": {"source": subject.calibration.as_uri(), "samples": 32, "sequence_length": 128},
    }


def _resnet(work: Path, data: Path) -> Spec:
    model = write_model(data / "cifar10-resnets/resnet56-jpeg.safetensors", work / "resnet")
    return {
        "model": {"uri": model.as_uri()},
        "target": {"kind": "parameters", "ratio": 0.5},
        "calibration": {"source": (data / "cifar10/test.zip").resolve().as_uri(), "samples": 512, "batch_size": 128},
    }


def _healed(case: Case, **healing: Any) -> Case:
    """The same job with a healing of everything that stays."""

    def spec(work: Path, data: Path) -> Spec:
        return {**case(work, data), "healing": {"steps": 8, "trained": "all", **healing}}

    return spec


CASES: dict[str, Case] = {
    "SmolLM2-135M-Instruct, text of its own": _smollm2,
    "BERT of rxnfp, text of its own": _bert,
    "ViT, 12 × 192, random": _vit,
    "Llama, 8 × 1024, random, given text": _llama,
    "ResNet-56 on CIFAR-10, healed": _healed(_resnet, optimizer="sgd", batch_size=256, augmentation="crop_and_flip"),
    "ViT, 12 × 192, random, healed": _healed(_vit),
    "BERT of rxnfp, healed": _healed(_bert),
    "Llama, 8 × 1024, random, healed": _healed(_llama, alpha=0.5),
    "SmolLM2-135M-Instruct, healed": _healed(_smollm2),
}


def _beside(estimate: float, taken: float) -> tuple[str, str, str]:
    ratio = f"{taken / estimate:.2f}" if estimate and taken else ""
    return f"{estimate:,.0f}", f"{taken:,.0f}", ratio


def _seconds(job: Job) -> float:
    assert job["started_at"]
    assert job["finished_at"]
    return (_time(job["finished_at"]) - _time(job["started_at"])).total_seconds()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


if __name__ == "__main__":
    typer.run(main)
