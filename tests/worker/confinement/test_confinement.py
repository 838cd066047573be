"""Hostile code in a job's process, as root and as the image's user: what it may do, and all that it may not."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.confinement.hostile import attempts, usual
from worker.confinement import weaknesses

IMAGE_USER = 10001
USERS = [os.getuid(), *([IMAGE_USER] if os.getuid() == 0 else [])]
COMPLETE = pytest.mark.skipif(bool(weaknesses()), reason="this machine cannot confine jobs completely")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A worker's folders; not below pytest's own, which only root may enter."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    for name in ("job/output", "model", "other"):
        (directory / name).mkdir(parents=True)
    for name in ("job/request.json", "model/weights", "model/taken", "other/secret"):
        (directory / name).write_text("text")
    yield directory
    shutil.rmtree(directory)


@COMPLETE
@pytest.mark.parametrize("user", USERS)
def test_hostile_code_reaches_nothing_but_its_own_job(folder: Path, user: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, user, user)
    command = [sys.executable, "-m", "tests.worker.confinement.hostile", str(folder), str(user)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    confined, free = map(json.loads, ended.stdout.splitlines())
    needed, forbidden = usual(folder).keys(), attempts(folder, 0, 0).keys()
    assert {name for name in needed if not confined[name]} == set()
    assert {name for name in forbidden if confined[name]} == set()
    # Nothing but the confinement kept it from that.
    assert {name for name in forbidden if not free[name]} <= {"set up an io_uring", "trace the worker"}
