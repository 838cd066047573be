"""Tensors in mapped files: more than memory would hold, nothing is left of them, and a full disk is an error."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sglp_core.errors import InsufficientStorage
from sglp_core.execution.mapped_tensor import mapped_tensor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limits are those of Linux")


def test_it_begins_with_zeros_and_keeps_what_is_written_without_a_name(tmp_path: Path) -> None:
    mapped = mapped_tensor((3, 1000, 5), torch.bfloat16, tmp_path, "this")
    assert torch.equal(mapped, torch.zeros(3, 1000, 5, dtype=torch.bfloat16))
    numbers = torch.randn(3, 1000, 5).to(torch.bfloat16)
    mapped.copy_(numbers)
    assert torch.equal(mapped, numbers)
    assert list(tmp_path.iterdir()) == []


def test_its_disk_is_free_again_when_it_is_gone(tmp_path: Path) -> None:
    size = 1 << 28
    mapped = mapped_tensor((size,), torch.uint8, tmp_path, "this")
    during = shutil.disk_usage(tmp_path).free
    del mapped
    # Others use the disk too, but not so much of it.
    assert shutil.disk_usage(tmp_path).free - during > size // 2


def test_more_than_the_disk_has_is_refused(tmp_path: Path) -> None:
    more = 2 * shutil.disk_usage(tmp_path).total
    with pytest.raises(InsufficientStorage, match=rf"^this needs {more:,} bytes, the disk has"):
        mapped_tensor((more,), torch.uint8, tmp_path, "this")
    assert list(tmp_path.iterdir()) == []


def run(program: str, folder: Path) -> str:
    imports = (
        "import resource, sys, torch; from pathlib import Path; "
        "from sglp_core.execution.mapped_tensor import mapped_tensor; folder = Path(sys.argv[1])\n"
    )
    command = [sys.executable, "-c", imports + program, folder]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    return ended.stdout + ended.stderr


def test_a_disk_that_another_process_has_filled_is_an_error_and_no_crash(tmp_path: Path) -> None:
    # The disk is as large as it was, and refuses the bytes all the same.
    output = run(
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))\n"
        "mapped_tensor((2**21,), torch.uint8, folder, 'this').fill_(1)",
        tmp_path,
    )
    assert "InsufficientStorage: this needs 2,097,152 bytes" in output
    assert list(tmp_path.iterdir()) == []


def test_it_does_not_count_as_memory_of_the_process(tmp_path: Path) -> None:
    output = run(
        "import psutil; limit = psutil.Process().memory_info().data + 2**26\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))\n"
        "print(int(mapped_tensor((2**28,), torch.uint8, folder, 'this').fill_(1)[-1]))",
        tmp_path,
    )
    assert output == "1\n"
