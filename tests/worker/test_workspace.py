"""A job's folder goes with the job, or with the next job where the worker was killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from worker.workspace import remove_abandoned, workspace


def test_the_folder_exists_during_the_job_only(tmp_path: Path) -> None:
    with workspace(tmp_path, "job_a") as directory:
        (directory / "deep" / "er").mkdir(parents=True)
        assert directory.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_failing_job_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), workspace(tmp_path, "job_a") as directory:
        (directory / "made").mkdir() or (directory / "missing" / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_running_job_keeps_its_folder_when_another_starts(tmp_path: Path) -> None:
    with workspace(tmp_path, "job_a") as first, workspace(tmp_path, "job_b"):
        assert first.is_dir()


def test_the_folder_of_a_killed_worker_is_removed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from worker.workspace import workspace\n"
        "with workspace(Path(sys.argv[1]), 'job_a'): print('held', flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    with worker.stdout:
        worker.stdout.readline()
        remove_abandoned(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1, "a living worker's folder was taken"
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []
