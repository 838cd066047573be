"""A whole job, with repair and verification, under a limit of memory that is far below the weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from tests.worker.tiny_model import write_text, write_tiny_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")

LAYERS, WIDTH = 26, 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 334 MB, of which a layer is a small part. The picture of a report alone takes 60 MB."""
    folder = tmp_path_factory.mktemp("limited")
    config = LlamaConfig.from_pretrained(write_tiny_model(folder / "model"))
    config.update(
        {
            "hidden_size": WIDTH,
            "intermediate_size": WIDTH * 11 // 4,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": WIDTH // 64,
            "num_key_value_heads": WIDTH // 64,
            "head_dim": 64,
        }
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    write_text(folder / "text.txt")
    return folder


def run(folder: Path, memory: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.sglp_core.execution.job_below_its_weights", folder, memory]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_job_ends_verified_and_repaired(folder: Path) -> None:
    ended = run(folder, "auto")
    assert ended.returncode == 0, ended.stderr[-3000:]
    report = json.loads(ended.stdout)
    assert report["placement"]["weights"] == "disk"
    assert report["verification"]["passed"]
    attempts = report["repair"]["attempts"]
    # No repair is refused for its memory.
    assert attempts
    assert not [attempt["reason"] for attempt in attempts if "GiB" in (attempt["reason"] or "")]
    assert any(attempt["error_after"] is not None for attempt in attempts)


def test_weights_in_memory_would_not_fit(folder: Path) -> None:
    ended = run(folder, "in_memory")
    assert ended.returncode != 0
    assert "allocate memory" in ended.stderr
