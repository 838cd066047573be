"""A job that outgrows the memory it may have fails alone: the worker, its next job and other workers go on."""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoConfig, LlamaForCausalLM

from tests.services.stack import Stack
from tests.worker.tiny_model import tiny_spec, write_text, write_tiny_model

# What a job on a tiny model needs is far below, and the logits of `greedy` alone are far above.
LIMIT_BYTES = 1500 << 20
VOCABULARY = 40_000
GREEDY = {"samples": 64, "sequence_length": 128, "batch_size": 64}


@pytest.fixture(scope="module")
def wide(models: Path) -> Path:
    """A model of a few megabytes whose logits of 64 windows of 128 tokens take 1.3 GB."""
    directory = write_tiny_model(models / "wide")
    config = AutoConfig.from_pretrained(directory)
    config.vocab_size = VOCABULARY
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def greedy(models: Path, wide: Path) -> dict[str, Any]:
    text = write_text(models / "long.txt", lines=1000)
    return {"mode": "analyze", "model": {"uri": wide.as_uri()}, "calibration": {"source": text.as_uri(), **GREEDY}}


def test_it_fails_alone_and_says_why(stack: Stack, models: Path, greedy: dict[str, Any]) -> None:
    small = {**tiny_spec(models / "model", models / "text.txt", mode="analyze"), "target": None}
    limited = stack.start_worker(job_memory_bytes=json.dumps(LIMIT_BYTES), gpu_class="limited")
    stack.start_worker()
    outgrown = stack.client.submit({**greedy, "gpu_class": "limited"})["id"]
    beside = stack.client.submit(small)["id"]
    failed = stack.wait_for_end(outgrown)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "out_of_memory"), failed
    assert failed["error"]["retryable"] is False
    assert failed["attempt"] == 1
    assert stack.wait_for_end(beside)["status"] == "succeeded"
    after = stack.client.submit({**small, "gpu_class": "limited"})["id"]
    assert stack.wait_for_end(after)["status"] == "succeeded"
    assert psutil.pid_exists(limited.pid)
    assert limited.poll() is None
    assert stack.work_files() == []


def test_without_the_limit_it_would_have_succeeded(stack: Stack, greedy: dict[str, Any]) -> None:
    stack.end_workers()
    stack.start_worker()
    job = stack.wait_for_end(stack.client.submit(greedy)["id"])
    assert job["status"] == "succeeded", job
