"""The batches of a healing are those of a computation in memory, and its files go with it, however it ends."""

import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor

from sglp_core import Calibration, Healing
from sglp_core.data.calibration_data import CalibrationData, prepare
from sglp_core.data.token_windows import Windows, batches
from sglp_core.errors import BadCalibration
from sglp_core.healing.training_samples import training_samples
from sglp_core.loading.loaded_model import LoadedModel, load_model
from sglp_core.options import Options
from sglp_core.run_context import RunContext
from sglp_core.tasks import Batch
from tests.sglp_core.data.tiny_images import CLASSES, write_images, write_tiny_vit
from tests.worker.tiny_model import WORDS, write_text, write_tiny_model

SEED, LENGTH, BATCH, STEP = 5, 16, 4, 6


def write_masked_model(directory: Path) -> Path:
    """A random BERT with the tokenizer of the tiny model, whose unknown word is its mask."""
    write_tiny_model(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens({"mask_token": "<unk>"})
    tokenizer.save_pretrained(directory)
    config = transformers.BertConfig(
        vocab_size=3 + len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    transformers.BertForMaskedLM(config).save_pretrained(directory)
    return directory


def prepared(model: Path, measured: Path, source: Path) -> tuple[LoadedModel, CalibrationData]:
    context = RunContext(cache=source.parent / "cache")
    calibration = Calibration(str(measured), samples=4, sequence_length=LENGTH, batch_size=BATCH, seed=SEED)
    loaded = load_model(str(model), Options(calibration=calibration), context)
    return loaded, prepare(loaded, calibration, None, context, Healing(epochs=2, source=str(source)))


def assert_drawn_from(whole: Batch, found: Sequence[Batch]) -> None:
    """Two epochs of steps have these samples, shuffled one by one."""
    count = len(whole.labels)
    generator = random.Random(SEED)
    numbers = generator.sample(range(count), count) + generator.sample(range(count), count)
    steps = [numbers[first : first + STEP] for first in range(0, len(numbers) - STEP + 1, STEP)]
    assert len(steps) > count // STEP > 1
    for batch, step in zip(islice(training_samples(found, STEP, SEED, 0), len(steps)), steps, strict=True):
        assert batch.inputs.keys() == whole.inputs.keys()
        for name, tensor in batch.inputs.items():
            assert tensor.dtype == whole.inputs[name].dtype
            assert torch.equal(tensor, torch.stack([whole.inputs[name][number] for number in step]))
        assert torch.equal(batch.labels, torch.stack([whole.labels[number] for number in step]))


def test_images_are_those_that_the_processor_makes_of_each_file(tmp_path: Path) -> None:
    source, measured = write_images(tmp_path / "images", each=9), write_images(tmp_path / "measured", each=3)
    loaded, data = prepared(write_tiny_vit(tmp_path / "model"), measured, source)
    files = sorted(source.rglob("*.png"), key=lambda path: path.relative_to(source).as_posix())
    random.Random(SEED).shuffle(files)
    processor = transformers.ViTImageProcessor.from_pretrained(tmp_path / "model")
    pixels = [processor(Image.open(file).convert("RGB"), return_tensors="pt")["pixel_values"][0] for file in files]
    labels = torch.tensor([CLASSES.index(file.parent.name) for file in files])
    assert_drawn_from(Batch({"pixel_values": torch.stack(pixels)}, labels), data.training(loaded))


def cut_in_memory(text: str, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """The windows of a text in the order of the draw, and their masks."""
    tokens = [token for document in text.split("\n\n") for token in [*tokenizer(document)["input_ids"], 2]]
    windows = [tokens[start : start + LENGTH] for start in range(0, len(tokens) - LENGTH + 1, LENGTH)]
    random.Random(SEED).shuffle(windows)
    return torch.tensor(windows), torch.ones(len(windows), LENGTH, dtype=torch.long)


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm"])
def test_windows_are_those_that_are_cut_of_the_whole_text_in_memory(task: str, tmp_path: Path) -> None:
    write = write_tiny_model if task == "causal_lm" else write_masked_model
    measured, source = write_text(tmp_path / "measured.txt", 40), tmp_path / "own.txt"
    source.write_text("\n\n".join(write_text(tmp_path / "lines.txt", 90).read_text().splitlines()))
    loaded, data = prepared(write(tmp_path / "model"), measured, source)
    assert loaded.task == task
    ids, mask = cut_in_memory(source.read_text(), loaded.processor)
    if task == "causal_lm":
        whole = Batch({"input_ids": ids, "attention_mask": mask}, ids)
    else:
        made = list(batches(Windows(ids, mask), "masked_lm", loaded.processor, BATCH, SEED + 2))
        inputs = {name: torch.cat([batch.inputs[name] for batch in made]) for name in made[0].inputs}
        whole = Batch(inputs, torch.cat([batch.labels for batch in made]))
    assert_drawn_from(whole, data.training(loaded))


def left_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_nothing_is_left_of_a_source_that_cannot_be_read_to_its_end(tmp_path: Path) -> None:
    source, measured = write_images(tmp_path / "images", each=9), write_images(tmp_path / "measured", each=3)
    (source / "cat/8.png").write_bytes(b"no image")
    with pytest.raises(BadCalibration, match=r"cat/8\.png cannot be read as an image"):
        prepared(write_tiny_vit(tmp_path / "model"), measured, source)
    assert left_in(tmp_path / "cache") == []


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    write_tiny_model(folder / "model")
    write_text(folder / "measured.txt", 40)
    write_text(folder / "own.txt", 20_000)
    imports = (
        "import resource, sys; from pathlib import Path; from tests.sglp_core.healing.test_trained_data import *\n"
        "folder = Path(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", imports + program, folder]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has mapped is read from /proc")
def test_nothing_is_left_of_a_process_that_is_killed(tmp_path: Path) -> None:
    process = start(
        "loaded, data = prepared(folder / 'model', folder / 'measured.txt', folder / 'own.txt')\n"
        "samples = data.training(loaded); print('ready', flush=True); sys.stdin.read()",
        tmp_path,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None
    # Windows, masks, inputs and labels are in files of the cache folder, which have no names.
    mapped = [line for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines() if str(tmp_path) in line]
    assert len([line for line in mapped if line.endswith(" (deleted)")]) >= 4
    assert left_in(tmp_path / "cache") == []
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert left_in(tmp_path / "cache") == []


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_a_disk_that_is_full_is_an_error_that_says_so(tmp_path: Path) -> None:
    process = start(
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))\n"
        "prepared(folder / 'model', folder / 'measured.txt', folder / 'own.txt')",
        tmp_path,
    )
    output, _ = process.communicate()
    assert "InsufficientStorage: the tokens of " in output
    assert left_in(tmp_path / "cache") == []
