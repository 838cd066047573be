"""Estimates beside the measured seconds and peak memory of the jobs, through the embedded service.

    python -m benchmarks.estimates

Every model is estimated and then compressed by a service that has never seen it. The seconds of a phase are those
between its first event and that of the next; the peak is the largest resident set of the job's own process (VmHWM).
"""

import itertools
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
from sglp_client import SGLP

from benchmarks.encoder_repairs import convert_rxnfp
from benchmarks.larger_than_memory import write_model
from sglp_service.demo import find_model
from sglp_service.embedded_stack import EmbeddedStack

Spec = dict[str, Any]
IMAGE_SIZE = 224
SAMPLED_SECONDS = 0.05


def main(
    only: Annotated[list[str] | None, typer.Option(help="Only these models; repeatable.")] = None,
    phases: Annotated[bool, typer.Option(help="Also a row for every phase.")] = False,
) -> None:
    """Print a row for every model."""
    table = Table("model", "phase", *("seconds estimated", "taken", "ratio"), *("MB estimated", "peak", "ratio"))
    for name in only or CASES:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            spec = CASES[name](work)
            with EmbeddedStack(work / "state", model_roots=[work, find_model().parent]) as stack:
                estimate, job, taken, peak_bytes = _both(stack, spec)
        if phases:
            for phase in {**estimate["seconds"], **taken}:
                table.add_row(name, phase, *_beside(estimate["seconds"].get(phase, 0.0), taken.get(phase, 0.0)))
        megabytes = _beside((estimate["peak_memory_bytes"] or 0) / 1e6, peak_bytes / 1e6)
        table.add_row(name, "all", *_beside(estimate["total_seconds"], _seconds(job)), *megabytes)
    Console(width=120).print(table)


def _both(stack: EmbeddedStack, spec: Spec) -> tuple[Spec, Spec, dict[str, float], int]:
    """The estimate, the job, its seconds by phase, and its peak memory."""
    with SGLP(stack.url) as service:
        estimating = service.wait(service.submit({**spec, "mode": "estimate"})["id"])
        assert estimating["status"] == "succeeded", estimating
        estimate = service.report(estimating["id"])["estimate"]
        with _watched_peak() as peak:
            job = service.wait(service.submit(spec)["id"])
        assert job["status"] == "succeeded", job
        events = list(service.events(job["id"]))
    taken: dict[str, float] = defaultdict(float)
    for event, following in itertools.pairwise(events):
        if event["data"].get("phase"):
            taken[event["data"]["phase"]] += (
                _time(following["created_at"]) - _time(event["created_at"])
            ).total_seconds()
    return estimate, job, taken, peak()


@contextmanager
def _watched_peak() -> Iterator[Callable[[], int]]:
    """Look at the jobs' processes until the end of the block; the largest peak of one of them."""
    peaks, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(SAMPLED_SECONDS):
            for process in psutil.Process().children(recursive=True):
                # A process may end while it is looked at.
                with suppress(psutil.Error, OSError, StopIteration):
                    if "worker.child" in process.cmdline():
                        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                        high = next(line for line in status if line.startswith("VmHWM:"))
                        peaks.append(int(high.split()[1]) * 1024)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: max(peaks)
    finally:
        ended.set()
        thread.join()


def _smollm2(_work: Path) -> Spec:
    return {
        "model": {"uri": find_model().as_uri()},
        "target": {"kind": "parameters", "ratio": 0.25},
        "calibration": {"samples": 32, "sequence_length": 256},
    }


def _bert(work: Path) -> Spec:
    return {
        "model": {"uri": convert_rxnfp(work / "bert").as_uri()},
        "target": {"kind": "layers", "ratio": 0.25},
        "calibration": {"samples": 64, "sequence_length": 128},
    }


def _vit(work: Path) -> Spec:
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


def _llama(work: Path) -> Spec:
    write_model(work / "llama", 8)
    (work / "text.txt").write_text("\n\n".join(f"word{number % 2000} " * 60 for number in range(400)))
    return {
        "model": {"uri": (work / "llama").as_uri()},
        "target": {"kind": "layers", "ratio": 0.25},
        "calibration": {"source": (work / "text.txt").as_uri(), "samples": 32, "sequence_length": 128},
    }


CASES: dict[str, Callable[[Path], Spec]] = {
    "SmolLM2-135M-Instruct, text of its own": _smollm2,
    "BERT of rxnfp, text of its own": _bert,
    "ViT, 12 × 192, random": _vit,
    "Llama, 8 × 1024, random, given text": _llama,
}


def _beside(estimate: float, taken: float) -> tuple[str, str, str]:
    ratio = f"{taken / estimate:.2f}" if estimate and taken else ""
    return f"{estimate:,.0f}", f"{taken:,.0f}", ratio


def _seconds(job: Spec) -> float:
    return (_time(job["finished_at"]) - _time(job["started_at"])).total_seconds()


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


if __name__ == "__main__":
    typer.run(main)
