"""Fresh processes answer, or say why not, and never outlive who asked."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sglp_core.errors import SGLPError
from sglp_core.fresh_process import FreshProcesses

ANSWERING = """
import os, signal, time
def handle(request):
    if request["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if request["do"] == "fail":
        raise ValueError("a reason")
    if request["do"] == "wait":
        open(request["file"], "w").write(str(os.getpid()))
        time.sleep(600)
    return {"said": request["do"], "pid": os.getpid()}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "answering.py").write_text(ANSWERING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "answering"


def test_forks_answer_one_after_the_other_whatever_happened_to_the_last(module: str, tmp_path: Path) -> None:
    # Those that other tests of the session have left running.
    before = set(psutil.Process().children(recursive=True))
    with FreshProcesses(tmp_path) as fresh:
        first = fresh.call(module, {"do": "hello"})
        with pytest.raises(SGLPError, match="a reason"):
            fresh.call(module, {"do": "fail"})
        with pytest.raises(MemoryError):
            fresh.call(module, {"do": "die"})
        second = fresh.call(module, {"do": "hello"})
        with pytest.raises(SGLPError, match="no_such_module"):
            fresh.call("no_such_module", {})
    assert first["said"] == second["said"] == "hello"
    assert len({first["pid"], second["pid"], os.getpid()}) == 3
    assert set(psutil.Process().children(recursive=True)) <= before


def test_where_nothing_forks_each_answer_has_an_interpreter(module: str, tmp_path: Path) -> None:
    with FreshProcesses(tmp_path, forks=False) as fresh:
        with pytest.raises(MemoryError):
            fresh.call(module, {"do": "die"})
        answer = fresh.call(module, {"do": "hello"})
        assert answer["said"] == "hello"
        assert not psutil.pid_exists(answer["pid"])


def test_it_dies_with_who_asked(module: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    program = (
        "import sys; from pathlib import Path; from sglp_core.fresh_process import FreshProcesses\n"
        "FreshProcesses(Path(sys.argv[2])).call('answering', {'do': 'wait', 'file': sys.argv[1]})"
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
