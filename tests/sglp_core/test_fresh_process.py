"""Fresh processes answer, or say why not, and never outlive who asked."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from sglp_core import fresh_process
from sglp_core.errors import SGLPError
from sglp_core.fresh_process import FreshProcesses, shared_server

ANSWERING = """
import os, signal, sys, time
def handle(request):
    if request["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if request["do"] == "fail":
        raise ValueError("a reason")
    if request["do"] == "wait":
        open(request["file"], "w").write(str(os.getpid()))
        time.sleep(600)
    status = open(f"/proc/{os.getppid()}/stat").read().rsplit(")")[1].split()
    numbers = [number for number in os.listdir("/proc/self/fd") if int(number) > 4]
    return {
        "said": request["do"],
        "pid": os.getpid(),
        "parent": os.getppid(),
        "grandparent": int(status[1]),
        "open": [os.path.realpath(f"/proc/self/fd/{number}") for number in numbers],
        "changed": "answering_was_changed" in sys.modules,
    }
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that a new interpreter finds; the server that all tests share does not."""
    (tmp_path / "answering.py").write_text(ANSWERING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(fresh_process, "_shared", [])
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


def test_one_server_is_shared_while_it_is_kept(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [tmp_path / name for name in "ab"]
    parents = []
    with shared_server():
        for folder in folders:
            folder.mkdir()
            # The server of the second was started in the first.
            monkeypatch.chdir(folder)
            with FreshProcesses(Path()) as fresh:
                assert fresh.scratch == folder
                parents.append(fresh.call(module, {"do": "hello"})["parent"])
                with pytest.raises(SGLPError, match="a reason"):
                    fresh.call(module, {"do": "fail"})
        assert parents[0] == parents[1]
        psutil.Process(parents[0]).kill()
        with FreshProcesses(tmp_path) as fresh:
            # The first call finds that its server is dead, the next has another.
            with pytest.raises(MemoryError):
                fresh.call(module, {"do": "hello"})
            parents.append(fresh.call(module, {"do": "hello"})["parent"])
    assert parents[2] != parents[0]
    assert not any(psutil.pid_exists(parent) for parent in parents)


FORKING = """
import json, os, sys, threading
from pathlib import Path
from sglp_core.fresh_process import FreshProcesses, shared_server
folder = Path(sys.argv[1])
secret = open(folder / "held", "w")
with shared_server(of_this_process=True):
    changed = "after the fork"
    sys.modules["answering_was_changed"] = sys
    with FreshProcesses(folder) as fresh:
        answers = [fresh.call("answering", {"do": "hello"}) for _ in range(2)]
        try:
            fresh.call("answering", {"do": "fail"})
        except Exception as error:
            answers.append(str(error))
    answers.append([os.getpid(), answers[0]["parent"]])
print(json.dumps(answers))
"""


def test_a_fork_of_this_process_answers_without_its_files_and_what_came_later(module: str, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", FORKING, tmp_path], cwd=root, capture_output=True, text=True, check=True
    )
    first, second, failed, (asking, server) = json.loads(ran.stdout)
    assert first["parent"] == second["parent"] == server
    assert len({asking, server, first["pid"], second["pid"]}) == 4
    assert first["grandparent"] == asking
    assert "a reason" in failed
    # Neither the file that was open nor the pipes of the server; what was imported after the fork is not there.
    assert [name for name in first["open"] if "held" in name or "pipe" in name] == []
    assert not first["changed"]
    assert not psutil.pid_exists(server)


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
