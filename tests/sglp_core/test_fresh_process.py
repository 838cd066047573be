"""Fresh processes answer, or say why not, and never outlive who asked."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sglp_core.errors import SGLPError
from sglp_core.fresh_process import call

ANSWERING = """
import os, signal, sys, time
sys.path[:0] = {root!r}, {here!r}
from sglp_core.fresh_process import serve
def handle(request):
    if request["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if request["do"] == "fail":
        raise ValueError("a reason")
    if request["do"] == "wait":
        open(request["file"], "w").write(str(os.getpid()))
        time.sleep(600)
    return {{"said": request["do"], "pid": os.getpid()}}
serve(handle)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    root = Path(__file__).parents[2]
    (tmp_path / "answering.py").write_text(ANSWERING.format(root=str(root), here=str(tmp_path)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "answering"


def test_the_answer_comes_from_another_process(module: str, tmp_path: Path) -> None:
    answer = call(module, {"do": "hello"}, tmp_path)
    assert answer["said"] == "hello"
    assert not psutil.pid_exists(answer["pid"])


def test_a_failure_carries_the_end_of_the_log(module: str, tmp_path: Path) -> None:
    with pytest.raises(SGLPError, match="a reason"):
        call(module, {"do": "fail"}, tmp_path)


def test_a_killed_process_is_a_want_of_memory(module: str, tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        call(module, {"do": "die"}, tmp_path)


def test_it_dies_with_who_asked(module: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = (
        "import sys; from pathlib import Path; from sglp_core.fresh_process import call\n"
        "call('answering', {'do': 'wait', 'file': sys.argv[1]}, Path(sys.argv[2]))"
    )
    root = Path(__file__).parents[2]
    asking = subprocess.Popen([sys.executable, "-c", program, file, tmp_path], cwd=root)
    while not (file.exists() and file.read_text()):
        assert asking.poll() is None
        time.sleep(0.05)
    answering = psutil.Process(int(file.read_text()))
    asking.kill()
    asking.wait()
    psutil.wait_procs([answering], timeout=5)
    assert not answering.is_running() or answering.status() == psutil.STATUS_ZOMBIE
