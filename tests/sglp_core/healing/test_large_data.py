"""Healing on more data than memory holds: it trains on all of it, and leaves nothing on the disk."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from tests.sglp_core.data.tiny_images import zipped
from tests.sglp_core.healing.healing_beyond_memory import LENGTH
from tests.worker.tiny_model import WORDS, write_tiny_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")

SIZE, IMAGES = 192, 600
LINES, WORDS_A_LINE = 16_000, 50
# Samples of a step, and bytes that may be allocated.
FOR_IMAGES, FOR_TEXTS = (16, 24 << 20), (64, 12 << 20)


def write_parquet(folder: Path, file: Path) -> None:
    """The images of a folder in one row group of many pages."""
    paths = sorted(folder.rglob("*.png"))
    columns = {"image": [path.read_bytes() for path in paths], "label": [path.parent.name for path in paths]}
    pq.write_table(pa.table(columns), file, row_group_size=IMAGES, use_dictionary=False, write_batch_size=8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """265 MB of pixels for a model of three patches a side, in a folder, a zip and a Parquet file."""
    folder = tmp_path_factory.mktemp("images")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=6,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=SIZE // 3,
        num_labels=2,
    )
    ViTForImageClassification(config).save_pretrained(folder / "model")
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder / "model")
    generator = np.random.default_rng(0)
    for name, count in (("few", 64), ("all", IMAGES)):
        for number in range(count):
            path = folder / name / f"LABEL_{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (SIZE, SIZE, 3), np.uint8)).save(path, compress_level=0)
        zipped(folder / name, folder / f"{name}.zip")
        write_parquet(folder / name, folder / f"{name}.parquet")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800,000 words, of which there are 29 MB of tokens, windows, masks, inputs and labels."""
    folder = tmp_path_factory.mktemp("texts")
    write_tiny_model(folder / "model", hidden_size=8)
    drawn = np.random.default_rng(0).integers(0, len(WORDS), (LINES, WORDS_A_LINE))
    lines = [" ".join(WORDS[word] for word in line) for line in drawn]
    for name, part in (("few", lines[:100]), ("all", lines)):
        (folder / f"{name}.txt").write_text("\n\n".join(part))
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(line) for line in part))
    return folder


def run(folder: Path, source: str, limits: tuple[int, int]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.sglp_core.healing.healing_beyond_memory", folder, source, *map(str, limits)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize("source", [pytest.param("all", marks=pytest.mark.slow), "all.zip", "all.parquet"])
def test_a_healing_on_more_images_than_memory_holds(images: Path, source: str) -> None:
    ended = run(images, source, FOR_IMAGES)
    assert ended.returncode == 0, ended.stderr[-3000:]
    healed = json.loads(ended.stdout)
    samples = IMAGES - 64
    assert (healed["samples"], healed["steps"]) == (samples, math.ceil(2 * samples / FOR_IMAGES[0]))
    assert healed["finite"]
    assert list((images / "cache").iterdir()) == []


@pytest.mark.parametrize("source", [pytest.param("all.txt", marks=pytest.mark.slow), "all.jsonl"])
def test_a_healing_on_more_text_than_memory_holds(texts: Path, source: str) -> None:
    ended = run(texts, source, FOR_TEXTS)
    assert ended.returncode == 0, ended.stderr[-3000:]
    healed = json.loads(ended.stdout)
    # Every line ends with the token that separates documents.
    samples = LINES * (WORDS_A_LINE + 1) // LENGTH - 64
    assert abs(healed["samples"] - samples) <= 1
    assert healed["steps"] == math.ceil(2 * healed["samples"] / FOR_TEXTS[0])
    assert healed["finite"]
    assert list((texts / "cache").iterdir()) == []
