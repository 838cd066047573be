"""Converted models are limited in size, and none goes that is in use."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sglp_core.checkpoints.converted_models import ConvertedModel, ConvertedModels
from sglp_core.errors import InsufficientStorage

SIZE_BYTES = 1000
KILLED = """
import os, signal, sys
from pathlib import Path
from sglp_core.checkpoints.converted_models import ConvertedModels

def write(directory):
    directory.mkdir()
    (directory / "weights").write_bytes(bytes(1000))
    os.kill(os.getpid(), signal.SIGKILL)

ConvertedModels(Path(sys.argv[1])).find_or_write("a", write)
"""


def writer(models: ConvertedModels) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        models.make_room(SIZE_BYTES)
        directory.mkdir()
        (directory / "weights").write_bytes(bytes(SIZE_BYTES))

    return write


def convert(models: ConvertedModels, digest: str) -> ConvertedModel:
    return models.find_or_write(digest, writer(models))


def kept(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def use_at(folder: Path, digest: str, seconds: float) -> None:
    os.utime(folder / f"{digest}.lock", (seconds, seconds))


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    models = ConvertedModels(tmp_path, 2 * SIZE_BYTES)
    for seconds, digest in enumerate("ab"):
        convert(models, digest)
        use_at(tmp_path, digest, seconds)
    convert(models, "a")
    convert(models, "c")
    assert kept(tmp_path) == {"a", "a.lock", "c", "c.lock"}


def test_what_is_in_use_stays_and_a_model_that_has_no_room_is_refused(tmp_path: Path) -> None:
    models = ConvertedModels(tmp_path, 2 * SIZE_BYTES)
    first = convert(models, "a")
    convert(models, "b")
    use_at(tmp_path, "a", 0)
    second = convert(models, "c")
    assert kept(tmp_path) == {"a", "a.lock", "c", "c.lock"}
    with pytest.raises(InsufficientStorage, match=r"2,000"):
        convert(models, "d")
    assert kept(tmp_path) == {"a", "a.lock", "c", "c.lock"}
    assert (first.directory / "weights").stat().st_size == (second.directory / "weights").stat().st_size
    del first
    assert convert(models, "d").directory.is_dir()
    assert kept(tmp_path) == {"c", "c.lock", "d", "d.lock"}


def test_a_writer_that_was_killed_leaves_nothing_for_long(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert list(tmp_path.glob("converting-*/model/weights"))
    convert(ConvertedModels(tmp_path), "b")
    assert {name for name in kept(tmp_path) if name.startswith("converting-")} == set()


def test_two_that_write_the_same_model_at_once_have_it_both(tmp_path: Path) -> None:
    both = threading.Barrier(2)
    models, found = ConvertedModels(tmp_path, 10 * SIZE_BYTES), []

    def write(directory: Path) -> None:
        both.wait(10)
        writer(models)(directory)
        both.wait(10)

    threads = [threading.Thread(target=lambda: found.append(models.find_or_write("a", write))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(each.directory / "weights").stat().st_size for each in found] == [SIZE_BYTES] * 2
    assert kept(tmp_path) == {"a", "a.lock"}
